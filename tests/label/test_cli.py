"""The output of the command line about a project."""

from types import SimpleNamespace

import numpy as np
import pytest

from skal import cli
from skal.label.audit import CONFIDENCES, accept_above, class_recalls, count_above, wilson_interval
from skal.label.project import Settings
from skal.label.stopping import StopTest, highest_target
from tests.label.conftest import CLASSES, draw, label_all, never, settled


def test_a_status_names_the_accuracy_the_recalls_and_the_confidence_to_accept(opened, tmp_path, capsys):
    folder = tmp_path / "many"
    for i in range(120):
        draw(folder / f"{CLASSES[i % 3]}-{i:03d}.png", CLASSES[i % 3], i)
    project = tmp_path / "many.skal"
    session = settled(opened(folder=folder, project=project, batch_size=10_000, query=never, audit=0.6))
    label_all(session, 60)
    session.fit()
    status = session.status()
    session.close()
    assert cli.main(["status", str(project)]) == 0
    printed = capsys.readouterr().out
    low, high = status.interval
    assert f"accuracy: {100 * status.accuracy:.1f} %, 95 % interval {100 * low:.1f} % to {100 * high:.1f} %" in printed
    assert f"agreement with your labels on {status.n_audit} images" in printed
    for found in status.recalls:
        recall = f"recall {100 * found.recall:.1f} % on {found.n} audit"
        assert f"{found.label}: {status.per_class[found.label]}, {recall}" in printed
    surest = status.surest
    assert f"{surest.n} audit answers have a confidence above 95 %, {surest.n_right} of them right; " in printed
    assert "at least 90 are needed to show 95 %." in printed
    assert "%" not in printed.replace(" %", "")  # one way to write a percentage


def test_too_few_audit_answers_are_told_from_a_confidence_that_is_not_reached():
    def says(n_above, n_right, target=None):
        confidences, is_right = [0.99] * n_above + [0.4] * 30, np.arange(n_above + 30) < n_right
        acceptance = accept_above(confidences, is_right, target or 0.95)
        surest = count_above(confidences, is_right, CONFIDENCES[-1])
        return cli._acceptance(SimpleNamespace(target=target, acceptance=acceptance, surest=surest))

    start = "28 audit answers have a confidence above 95 %, 28 of them right"
    assert says(28, 28, 0.9) == f"{start}; at least 44 are needed to show 90 %."
    start = "120 audit answers have a confidence above 95 %, 118 of them right"
    assert says(120, 118) == f"{start}, which is not enough to show 95 %."
    assert says(90, 90) == (
        "Of the predictions with a confidence above 50 %, at least 95 % are right, as the audit shows. "
        "They are 75.0 % of the audit images."
    )


def test_every_argument_is_described():
    (commands,) = (action for action in cli._parser()._actions if action.choices)
    assert set(commands.choices) == {"label", "status", "predict", "export"}
    for command in commands.choices.values():
        for action in command._actions:
            assert action.help, f"{command.prog}: {action.dest}"
            assert not action.help.startswith("("), f"{command.prog}: {action.dest}"


def test_how_many_answers_are_left_until_the_first_accuracy(opened, tmp_path, capsys):
    folder, project = tmp_path / "many", tmp_path / "many.skal"
    for i in range(120):
        draw(folder / f"{CLASSES[i % 3]}-{i:03d}.png", CLASSES[i % 3], i)
    session = settled(opened(folder=folder, project=project, batch_size=10_000, query=never, audit=0.4))
    assert session.status().accuracy_hint == (
        "About 75 more answers until it is shown: 0 of at least 30 audit answers."
    )
    label_all(session, 30)
    assert session.status().n_audit == 12
    assert session.status().accuracy_hint.startswith("About 45 more answers until it is shown: 12 of at least 30")
    assert cli.main(["status", str(project)]) == 0
    assert "accuracy: not available yet. About 45 more answers" in capsys.readouterr().out
    label_all(session, 44)
    assert session.status().accuracy_hint.startswith("About 3 more answers")
    label_all(session, 1)
    assert session.status().accuracy_hint == "Shown with the next model."
    session.fit()
    assert session.status().accuracy is not None
    assert session.status().accuracy_hint == ""


def test_why_no_accuracy_comes(quiet):
    assert settled(quiet()).status().accuracy_hint == (
        "0 of at least 30 audit answers, but only 21 images are reserved. Add images to the folder."
    )


def test_without_an_audit_there_is_no_accuracy(quiet):
    assert quiet(audit=0).status().accuracy_hint == "The audit share is 0, so there is no accuracy."


def test_what_is_printed_is_worked_by_hand():
    (recall,) = class_recalls(["cat"] * 4, ["cat"] * 3 + ["dog"], ["cat"])
    low, high = wilson_interval(3, 4)
    assert cli._range(recall.interval) == f"{100 * low:.1f} % to {100 * high:.1f} %" == "30.1 % to 95.4 %"


@pytest.mark.parametrize("n_listed", [30, 90, 150, 176, 180, 3000])
@pytest.mark.parametrize("target", [0.9, 0.95])
def test_a_target_that_no_audit_could_show_is_named_at_the_start(n_listed, target):
    n_reserved = round(min(400, n_listed / 3))
    settings = Settings("photos", "", 1, n_listed, 0.2, target, list(StopTest.plan(target, n_reserved).looks))
    lines = cli._warning(settings)
    assert bool(lines) == (not settings.looks)
    if lines:
        highest = highest_target(n_reserved)
        assert StopTest.plan(highest, n_reserved).looks
        assert not StopTest.plan(highest + 0.01, n_reserved).looks
        assert f"{n_listed} images are too few to test the target of {100 * target:.0f} %" in lines[0]
        assert f"--target {highest:.2f} or less" in lines[0]


def test_without_a_target_or_an_audit_there_is_no_other_target_to_name():
    assert cli._warning(Settings("photos", "", 1, 10, 0.2)) == []
    (line,) = cli._warning(Settings("photos", "", 0, 1000, 0.0, 0.9, []))
    assert "--target" not in line
