"""The network of a project: a change is reported, and no model of another network is used."""

import json

import pytest

from skal import FrozenPrefixClassifier, ImageTransform, cli
from skal.label import LabelSession, fitting
from skal.label.stored import StoredProject
from tests.label.conftest import CLASSES, draw, label_all, never, settled


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch, convnet):
    """Two networks that the command line could select, by input size."""

    def build(network, cache=True, random_state=0):
        side = (fitting.resolved(network)["image_size"] or 224) // 8
        preprocess = ImageTransform(side, side)
        options = {"n_frozen": 2, "max_epochs": 0, "min_steps": 0, "random_state": 0}
        return FrozenPrefixClassifier(convnet, preprocess=preprocess, cache=cache, **options)

    monkeypatch.setattr(fitting, "build_estimator", build)
    monkeypatch.setattr(fitting, "check_network", lambda network: None)


@pytest.fixture
def photos(tmp_path):
    """120 pictures, so that enough of them are reserved for an accuracy."""
    for i in range(120):
        draw(tmp_path / "photos" / f"{CLASSES[i % 3]}-{i:03d}.png", CLASSES[i % 3], i)
    return tmp_path / "photos"


@pytest.fixture
def project(photos, tmp_path):
    """A project with an accuracy, closed."""
    path = tmp_path / "photos.skal"
    with LabelSession(photos, path, classes=CLASSES, query=never, audit=0.7, batch_size=10_000) as session:
        settled(session)  # all images are read, so the reserve is known
        label_all(session, 50)
        session.fit()
    return path


def label(monkeypatch, photos, *options, then=lambda session: None):
    """`skal label`, ended by Ctrl-C after `then`."""
    server = pytest.importorskip("skal.label.server", reason="the page needs the extra 'label'")

    class Interrupted(server.Server):
        def __init__(self, session, **further):
            super().__init__(session, **further)
            self.session = session

        def run(self):
            then(self.session)
            self.stop()
            raise KeyboardInterrupt

    monkeypatch.setattr(server, "Server", Interrupted)
    code = cli.main(["label", str(photos), "--no-browser", *options])
    monkeypatch.setattr(server, "Server", Interrupted.__base__)
    return code


def predict(project, photos, tmp_path):
    return cli.main(["predict", str(project), str(photos), "--output", str(tmp_path / "a.csv")])


def test_another_network_is_said_and_trained_at_once(project, photos, tmp_path, monkeypatch, capsys):
    seen = []

    def look(session):
        settled(session)
        seen.append(session.status())

    before = StoredProject(project).status()
    assert label(monkeypatch, photos, "--image-size", "96", then=look) == 130
    out = capsys.readouterr().out
    assert "The network changes from efficientnet_lite0 at 128 px to efficientnet_lite0 at 96 px" in out
    (status,) = seen
    assert (before.model, status.model) == (1, 2)
    assert status.n_newer == 0
    assert predict(project, photos, tmp_path) == 0
    assert label(monkeypatch, photos) == 130  # as before
    assert "network changes" not in capsys.readouterr().out
    assert cli.main(["export", str(project), "--format", "model", "--output", str(tmp_path / "model")]) == 0
    assert predict(tmp_path / "model", photos, tmp_path) == 0
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert described["network"] == {"backbone": "efficientnet_lite0", "weights": "auto", "image_size": 96}
    assert (described["resize"], described["image_size"]) == (12, 12)


def test_until_then_there_is_no_accuracy_and_no_model(project, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("skal.label.modelling.Modelling.next_task", lambda self: None)
    with LabelSession(photos, project, query=never, network={"backbone": "resnet18"}) as session:
        status = session.status()
    stored = StoredProject(project).status()
    for found in (status, stored):
        assert (found.model, found.accuracy) == (0, None)
        assert found.accuracy_hint == "Shown with the next model."
        assert found.recalls == []
    capsys.readouterr()
    assert predict(project, photos, tmp_path) == 2
    assert "has no model yet: run skal label to train one with resnet18" in capsys.readouterr().err
    assert cli.main(["export", str(project), "--format", "model", "--output", str(tmp_path / "model")]) == 2
    assert not (tmp_path / "model").exists()


def test_the_same_network_named_otherwise_changes_nothing(project, photos):
    network = {"backbone": "efficientnet_lite0", "weights": None, "image_size": 128}
    with LabelSession(photos, project, query=never, network=network, batch_size=10_000) as session:
        assert session.status().model == 1
        assert session.status().accuracy is not None


def test_an_estimator_in_place_of_a_named_network_starts_anew(project, photos, estimator):
    LabelSession(photos, project, query=never, network={"image_size": 96}, batch_size=10_000).close()
    with LabelSession(photos, project, query=never, estimator=estimator, batch_size=10_000) as session:
        assert session.settings.network == {}
        settled(session)
        assert session.status().model == 2


def test_a_model_that_does_not_fit_is_named_by_its_network_in_one_line(project, photos, tmp_path, capsys):
    settings = StoredProject(project).settings
    settings.network = {"image_size": 96}  # as if someone edited the file
    StoredProject(project).project.save(settings)
    assert predict(project, photos, tmp_path) == 2
    error = capsys.readouterr().err
    assert "cannot be used with efficientnet_lite0 at 96 px" in error
    assert error.count("\n") == 1


def test_what_is_named_before_goes_on_but_not_to_another_backbone(project, photos, monkeypatch):
    label(monkeypatch, photos, "--backbone", "resnet18", "--image-size", "64")
    label(monkeypatch, photos, "--weights", "w.pth")
    kept = {"backbone": "resnet18", "image_size": 64, "weights": "w.pth"}
    assert StoredProject(project).settings.network == kept
    label(monkeypatch, photos, "--backbone", "resnet50")
    assert StoredProject(project).settings.network == {"backbone": "resnet50"}


def test_a_weights_file_is_found_again_from_another_folder(project, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pth").write_bytes(b"")
    label(monkeypatch, photos, "--backbone", "resnet18", "--weights", "w.pth")
    assert StoredProject(project).settings.network["weights"] == str(tmp_path / "w.pth")


# ------------------------------------------------------------------------ newer answers


def test_ctrl_c_trains_on_the_last_answers_and_says_what_comes_next(project, photos, tmp_path, monkeypatch, capsys):
    assert label(monkeypatch, photos, then=lambda session: label_all(session, 20)) == 130
    out = capsys.readouterr().out
    assert "Training the model on the last answers" in out
    assert f"70 labels are saved in {project}" in out
    assert f"skal predict {project} NEW/ --output predictions.csv" in out
    stored = StoredProject(project)
    assert stored.n_newer == 0
    assert stored.snapshot.n_labels == stored.status().n_training


def test_newer_answers_are_counted_wherever_the_model_is_used(project, photos, tmp_path, capsys):
    with LabelSession(photos, project, query=never, batch_size=10_000) as session:
        n = session.status().n_training
        label_all(session, 20)
        n_newer = session.status().n_training - n
        assert session.status().n_newer == n_newer > 0
    said = f"{n_newer} newer answers are not in this model; skal label trains on new answers when it stops"
    assert cli.main(["status", str(project)]) == 0
    assert said in capsys.readouterr().out
    assert predict(project, photos, tmp_path) == 0
    assert said in capsys.readouterr().out
    assert cli.main(["export", str(project), "--format", "model", "--output", str(tmp_path / "model")]) == 0
    assert said in capsys.readouterr().out


def test_what_was_decided_anew_is_newer_and_what_was_taken_back_is_not(project, photos):
    with LabelSession(photos, project, query=never, batch_size=10_000) as session:
        image = next(item.id for item, _ in session._modelling.training())
        session.answer(image, "red", why="review")
        assert session.status().n_newer == 1
        session.undo()
        assert session.status().n_newer == 0
        audited = next(iter(session._state.audited))
        session.answer(audited, "red", why="review")
        assert session.status().n_newer == 0
