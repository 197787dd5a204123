"""The study of labelling time, at toy size."""

import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest
from sklearn.base import clone

from tests.label.conftest import CLASSES, draw

FILE = Path(__file__).parents[2] / "examples" / "studies" / "person_time.py"


@pytest.fixture
def study(monkeypatch, estimator):
    spec = importlib.util.spec_from_file_location("person_time", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "network", lambda cache, side: clone(estimator))
    monkeypatch.setattr(module, "ROUND", 6.0)
    monkeypatch.setattr(module, "LIMIT", 24.0)
    monkeypatch.setattr(module, "SURE", 0.0)
    return module


def test_every_way_is_one_line_and_the_study_resumes(study, tmp_path, monkeypatch, capsys):
    for i in range(90):
        draw(tmp_path / "images" / CLASSES[i % 3] / f"{i}.png", CLASSES[i % 3], i)
    output = tmp_path / "results" / "times.csv"
    output.parent.mkdir()
    arguments = ["--images", tmp_path / "images", "--name", "toy", "--seeds", "1", "--output", output]
    monkeypatch.setattr(sys, "argv", ["person_time.py", *map(str, arguments)])
    study.main()
    found = pd.read_csv(output).set_index("way")
    assert tuple(found.index) == study.WAYS
    assert (found.n_pool == 63).all()
    assert ((found.accuracy >= found.target) | (found.seconds >= 24)).all()
    single, grids = found.loc["session"], found.loc["session and grids"]
    assert single.seconds == single.n_answers * 1.0
    assert grids.seconds == pytest.approx(grids.n_answers * 1.0 + grids.n_cells * 0.3)
    lines = output.read_text().splitlines()
    output.write_text("\n".join(lines[:3]) + "\n")
    study.main()
    assert [line.split(",")[:3] for line in output.read_text().splitlines()] == [line.split(",")[:3] for line in lines]
    monkeypatch.setattr(sys, "argv", ["person_time.py", "--table", "--output", str(output)])
    study.main()
    assert "against random" in capsys.readouterr().out
    assert (output.parent / "times_table.csv").is_file()
