"""The commands of ``examples/studies/all.py`` and the calls of studies on the pages are parsed by their scripts."""

import argparse
import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STUDIES = ROOT / "examples" / "studies"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: A call with its options on a page.
CALL = re.compile(r"(?<![\w/])(examples/(?:studies/)?\w+\.py(?: [^`\n#]*)?)")


class Parsed(Exception):  # noqa: N818 (no error: the script stops once it has understood its arguments)
    pass


@pytest.fixture(scope="module")
def scripts():
    """The scripts as modules. Some share names with other modules, so they are unloaded afterwards."""
    pytest.importorskip("matplotlib")
    names = [path.stem for path in STUDIES.glob("*.py")] + ["quickstart"]
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    folders = [str(STUDIES), str(STUDIES.parent)]
    sys.path[:0] = folders
    yield {name: importlib.import_module(name) for name in names}
    sys.path[:] = [folder for folder in sys.path if folder not in folders]
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(before)


@pytest.fixture
def understood(scripts, monkeypatch, capsys):
    """Whether a script accepts its arguments. Nothing of it is run."""
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser, *arguments, **options):
        parse(parser, *arguments, **options)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)

    def check(script, arguments):
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        try:
            scripts[Path(script).stem].main()
        except Parsed:
            return
        except SystemExit:
            pytest.fail(f"{script} {shlex.join(arguments)}: {capsys.readouterr().err}")
        pytest.fail(f"{script} reads no arguments")

    return check


def test_the_commands_of_every_table_are_understood(scripts, understood, tmp_path):
    for study in scripts["all"].STUDIES.values():
        for command in study.commands:
            script, *arguments = shlex.split(command)
            understood(script, [part.format(data=tmp_path, work=tmp_path) for part in arguments])


def test_an_unknown_option_is_noticed(understood):
    with pytest.raises(pytest.fail.Exception, match="--no-such-option"):
        understood("examples/studies/depth.py", ["--no-such-option", "1"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_calls_on_a_page_are_understood(scripts, understood, page):
    for call in CALL.findall(page.read_text("utf-8")):
        script, *arguments = shlex.split(call)
        if not arguments or not arguments[0].startswith("--"):
            continue  # the script is only mentioned
        assert (ROOT / script).is_file(), f"{page.name} names {script}"
        arguments = [part for part in arguments if part != "&&"]
        names = [part for part in arguments if not part.startswith("-")]
        if script.endswith("all.py") and names == ["NAME"]:
            continue
        understood(script, arguments)


def test_every_table_can_be_found_on_a_page(scripts):
    """A study is on a page if the line above its table, or the command that reproduces it, is there."""
    pages = "\n".join(page.read_text("utf-8") for page in PAGES)
    marked = {found["name"] for found in scripts["all"].MADE_WITH.finditer(pages)}
    called = {name for call in re.findall(r"--table ([\w ]+)", pages) for name in call.split()}
    assert not set(scripts["all"].STUDIES) - marked - called
    assert not called - set(scripts["all"].STUDIES) - {"NAME"}
