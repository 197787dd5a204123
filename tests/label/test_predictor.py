"""Models outside a session: calibrated, with current class names, and as ONNX."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from skal import ImageTransform, cli
from skal.label import fitting
from skal.label.calibration import calibrate, fit_temperature
from skal.label.predictor import calibration
from skal.label.stored import FORMATS, StoredProject, load_predictor
from tests.label.conftest import CLASSES, draw, label_all, never, settled
from tests.label.test_stored import read_csv
from tests.test_docs import SNIPPETS


@pytest.fixture(autouse=True)
def _default_network(monkeypatch, estimator):
    """Replaces the network that the command line uses."""
    monkeypatch.setattr(fitting, "build_estimator", lambda network, cache=True: estimator.set_params(cache=cache))


@pytest.fixture
def audited(opened, tmp_path):
    """A session with 36 audit answers on 120 images, some of them wrong, and its model."""
    folder = tmp_path / "many"
    for i in range(120):
        draw(folder / f"{CLASSES[i % 3]}-{i:03d}.png", CLASSES[i % 3], i)
    session = settled(opened(folder=folder, project=tmp_path / "many.skal", batch_size=10_000, query=never, audit=0.6))
    label_all(session, 30)
    for i in range(30):
        question = session.next()
        session.answer(question.id, CLASSES[i % 3])
    session.fit()
    return session


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "new"
    for i in range(9):
        draw(folder / f"{CLASSES[i % 3]}-{i}.png", CLASSES[i % 3], 1000 + i)
    return folder


def test_probabilities_are_calibrated_on_the_audit(audited, images, tmp_path, capsys):
    found = StoredProject(audited.project.path)
    temperature, n = calibration(found.state, found.snapshot)
    assert n == audited.status().n_audit >= 30
    labels = audited.labels.query("why == 'audit'")
    proba = audited.model.predict_proba(np.array([str(tmp_path / "many" / path) for path in labels.path]))
    assert_allclose(temperature, fit_temperature(proba, [CLASSES.index(label) for label in labels.label]), rtol=1e-3)
    paths = sorted(str(path) for path in images.iterdir())
    confidence, proba = found.predictor().predict(paths)
    assert_allclose(confidence, audited.model.predict_proba(np.array(paths)), rtol=1e-4)
    assert_allclose(proba, calibrate(confidence, temperature), rtol=1e-6)
    assert cli.main(["predict", str(audited.project.path), str(images), "--output", str(tmp_path / "a.csv")]) == 0
    assert f"temperature {temperature:.2f}" in capsys.readouterr().out
    rows = read_csv(tmp_path / "a.csv")
    assert_allclose([float(row["confidence"]) for row in rows], confidence.max(axis=1), atol=1e-6)
    assert_allclose([float(row["probability"]) for row in rows], proba.max(axis=1), atol=1e-6)


def test_the_session_predicts_what_the_command_does(audited, images, tmp_path):
    audited.rename_class("red", "scarlet")
    found = audited.predict(sorted(images.iterdir()))
    cli.main(["predict", str(audited.project.path), str(images), "--output", str(tmp_path / "a.csv")])
    rows = read_csv(tmp_path / "a.csv")
    assert list(found.columns) == list(rows[0])
    assert list(found.label) == [row["label"] for row in rows]
    assert "scarlet" in set(found.label)
    assert list(found.columns[:3]) == ["path", "label", "your_label"]
    for name in found.columns[3:]:
        assert_allclose(found[name], [float(row[name]) for row in rows], atol=1e-5)
    assert audited.predict([]).shape == (0, 8)


def test_predictions_say_which_images_are_labelled(audited, tmp_path):
    """Also if a labelled image has moved, and with the current class name."""
    audited.rename_class("red", "scarlet")
    labels = audited.labels.set_index("path").label.to_dict()
    folder = tmp_path / "many"
    (folder / "day").mkdir()
    moved = next(iter(labels))
    (folder / moved).rename(folder / "day" / "moved.png")
    labels["day/moved.png"] = labels.pop(moved)
    paths = sorted(folder.rglob("*.png"))
    wanted = [labels.get(str(path.relative_to(folder)), "") for path in paths]
    assert "" in wanted
    assert "scarlet" in wanted
    assert audited.predict(paths).your_label.tolist() == wanted
    cli.main(["predict", str(audited.project.path), str(folder), "--output", str(tmp_path / "a.csv")])
    assert [row["your_label"] for row in read_csv(tmp_path / "a.csv")] == wanted


def test_without_thirty_answers_probabilities_are_the_models_own(opened):
    session = opened(batch_size=10_000)
    label_all(session, 30)
    session.fit()
    found = StoredProject(session.project.path)
    assert calibration(found.state, found.snapshot)[0] is None
    confidence, proba = found.predictor().predict([session.next().path])
    assert_allclose(proba, confidence)


def test_a_model_follows_renames_and_merges(audited, images, opened, tmp_path):
    """Changes after training appear in every prediction: of a reopened session, of projects and of exports."""
    accuracy = audited.status().accuracy
    audited.rename_class("red", "scarlet")
    assert audited.status().accuracy == accuracy
    audited.close()
    found = StoredProject(audited.project.path)
    assert found.status().accuracy == accuracy
    with opened(folder=tmp_path / "many", project=audited.project.path, batch_size=10_000) as again:
        assert again.status().accuracy == accuracy
        before = again._desk.snapshot
        assert before.classes == ["blue", "green", "scarlet"]
        again.rename_class("blue", "green")
        again.undo()
        again.rename_class("scarlet", "green")
    found = StoredProject(audited.project.path)
    assert found.predictor().classes == ["blue", "green"]
    paths = sorted(str(path) for path in images.iterdir())
    merged = found.predictor().predict(paths)[0]
    own = audited.model.predict_proba(np.array(paths))
    assert_allclose(merged, np.stack([own[:, 0], own[:, 1] + own[:, 2]], axis=1), rtol=1e-4)
    found.export("model", tmp_path / "model")
    for one, other in zip(
        load_predictor(tmp_path / "model").predict(paths), found.predictor().predict(paths), strict=True
    ):
        assert_allclose(one, other)


def test_a_class_that_is_renamed_while_a_model_is_trained(audited, monkeypatch):
    original = fitting.fit

    def fit(*args):
        model = original(*args)
        audited.rename_class("red", "scarlet")
        return model

    monkeypatch.setattr(fitting, "fit", fit)
    audited.fit()
    assert audited._desk.snapshot.classes == ["blue", "green", "scarlet"]
    assert StoredProject(audited.project.path).snapshot.classes == ["blue", "green", "scarlet"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the exporter's own packages
def test_onnx_gives_the_calibrated_probabilities(audited, images, tmp_path, monkeypatch):
    """Also with the program of the docs, which needs no skal."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    audited.rename_class("red", "scarlet")
    target = tmp_path / "onnx"
    assert cli.main(["export", str(audited.project.path), "--format", "onnx", "--output", str(target)]) == 0
    described = json.loads((target / "model.json").read_text())
    assert described["classes"] == ["blue", "green", "scarlet"]
    plain = ImageTransform(
        described["resize"], described["image_size"], (0.0,) * 3, (1.0,) * 3, described["interpolation"]
    )
    paths = sorted(str(path) for path in images.iterdir())
    import torch

    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    session = runtime.InferenceSession(target / "model.onnx")
    wanted = StoredProject(audited.project.path).predictor().predict(paths)[1]
    for n in (1, 9):
        (proba,) = session.run(["probabilities"], {"images": plain(torch.from_numpy(pixels[:n])).numpy()})
        assert_allclose(proba, wanted[:n], atol=1e-4)
    (program,) = [code for code in SNIPPETS["docs/task_production.md"] if "onnxruntime" in code]
    monkeypatch.chdir(tmp_path)
    names = {"paths": paths}
    exec(compile(program, "docs/task_production.md", "exec"), names)
    assert_allclose(names["proba"], wanted, atol=0.02)  # pixels are rounded when resized
    assert names["labels"] == [described["classes"][k] for k in names["proba"].argmax(axis=1)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the exporter's own packages
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_from_the_command_line(audited, tmp_path, form, capsys):
    target = tmp_path / "target"
    assert cli.main(["export", str(audited.project.path), "--format", form, "--output", str(target)]) == 0
    files = {path.name for path in ([target] if target.is_file() else target.rglob("*")) if path.is_file()}
    n = {"csv": 1, "labelstudio": 1, "imagefolder": 60, "model": 2, "onnx": 2}[form]
    assert len(files) == n
    out = capsys.readouterr().out
    assert str(target) in out
    assert ("Exporting takes about half a minute." in out) == (form == "onnx")
    assert ("more measure it" in out) == (form in ("model", "onnx"))
    assert cli.main(["export", str(audited.project.path), "--format", form, "--output", str(target)]) == 2


def test_without_the_extra_nothing_is_written(audited, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("skal.label.onnx_file.find_spec", lambda name: None)
    command = ["export", str(audited.project.path), "--format", "onnx", "--output", str(tmp_path / "target")]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert "pip install 'skal-learn[onnx]'" in error
    assert "in a checkout pip install -c tests/constraints.txt -e '.[onnx]'" in error
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("form", ["model", "onnx"])
def test_no_model_yet(opened, tmp_path, form):
    session = opened(batch_size=10_000)
    with pytest.raises(ValueError, match="no model yet"):
        StoredProject(session.project.path).export(form, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_descriptions_that_are_damaged(audited, tmp_path):
    StoredProject(audited.project.path).export("model", tmp_path / "model")
    for content in ("", "{}", '{"network": {}, "renames": [1], "temperature": 1}', "[]"):
        (tmp_path / "model" / "model.json").write_text(content)
        with pytest.raises(ValueError, match="does not describe a model"):
            load_predictor(tmp_path / "model")
