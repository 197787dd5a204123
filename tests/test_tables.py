"""The tables and figures of the documentation. Each names its study and the code that produced it."""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
SHOWN = re.compile(r"(?::file: |\]\()results/(?P<file>[^)\n]+)\)?")
PIPES = re.compile(r"(?:^\|.*\n)+", re.M)
FIGURES = {"index.md"}  # repeats a figure of another page


@pytest.fixture(scope="module")
def studies():
    spec = importlib.util.spec_from_file_location("all_studies", ROOT / "examples/studies/all.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sections(text):
    """Parts of a page between headings."""
    return re.split(r"^#+ .*$", text, flags=re.M)


def is_measured(table):
    """Whether most cells outside the first column are numbers."""
    rows = [line.strip().strip("|").split("|")[1:] for line in table.splitlines()[2:]]
    cells = [cell.strip(" *`±+-") for row in rows for cell in row if cell.strip()]
    return len(cells) > 0 and sum(bool(re.match(r"[.\d]", cell)) for cell in cells) > len(cells) / 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_table_names_the_code_that_made_it(studies, page):
    for section in sections(page.read_text("utf-8")):
        lines = list(studies.MADE_WITH.finditer(section))
        for found in lines:
            assert found["name"] in studies.STUDIES or (ROOT / found["name"]).is_file(), found[0]
        for shown in SHOWN.finditer(section):
            if page.name in FIGURES:
                continue
            before = [line["name"] for line in lines if line.start() < shown.start()]
            assert before, f"no line names the code that made {shown['file']}"
            made = set().union(*(studies.STUDIES[name].files.values() for name in before if name in studies.STUDIES))
            assert shown["file"] in made, f"{shown['file']} is not made by {before}"
        for table in PIPES.finditer(section):
            if is_measured(table[0]):
                assert any(line.start() < table.start() for line in lines), f"no line for the table\n{table[0]}"


def test_every_file_of_a_study_is_there(studies):
    files = [file for study in studies.STUDIES.values() for file in study.files.values()]
    assert len(files) == len(set(files))
    for name, study in studies.STUDIES.items():
        for command in study.commands:
            assert (ROOT / command.split()[0]).is_file(), f"{name} runs {command}"


@pytest.fixture
def toy_study(studies, monkeypatch, tmp_path):
    """A study of two commands, the second of which fails unless a file exists."""
    script = tmp_path / "toy.py"
    script.write_text(
        "import sys, pathlib\n"
        "folder = pathlib.Path(sys.argv[2])\n"
        "with open(folder / 'log', 'a') as log: log.write(sys.argv[1])\n"
        "assert sys.argv[1] != 'b' or (folder.parents[1] / 'allowed').exists()\n"
        "(folder / 'table.csv').write_text('1')\n"
    )
    toy = studies.Study([f"{script} a {{work}}", f"{script} b {{work}}"], {"table.csv": "toy/table.csv"})
    monkeypatch.setitem(studies.STUDIES, "toy", toy)
    monkeypatch.setattr(studies, "code_version", lambda: "abc1234")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text(
        "*`toy`: skal 0.0.1, code of 0000000.*\n*`other`: skal 0.0.1, code of 0000000.*\n"
    )
    return tmp_path


def test_a_study_that_was_stopped_continues_and_marks_its_tables(studies, toy_study):
    work, docs = toy_study / "work", toy_study / "docs"
    with pytest.raises(subprocess.CalledProcessError):
        studies.remake("toy", toy_study, work, docs)
    assert "0000000" in (docs / "page.md").read_text().splitlines()[0]
    (work / "allowed").touch()
    studies.remake("toy", toy_study, work, docs)
    assert (work / "abc1234" / "toy" / "log").read_text() == "abb"
    assert (docs / "results" / "toy" / "table.csv").read_text() == "1"
    marked, other = (docs / "page.md").read_text().splitlines()
    assert marked == f"*`toy`: skal {studies.skal.__version__}, code of abc1234.*"
    assert "0000000" in other


def test_missing_data_are_named(studies, tmp_path):
    with pytest.raises(SystemExit, match=r"selective_usps needs mnist.npz, usps.npz in"):
        studies.remake("selective_usps", tmp_path, tmp_path, tmp_path)
