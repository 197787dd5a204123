"""The status of a session: counts, accuracy with its interval, and whether to stop."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from skal.label.audit import (
    CONFIDENCES,
    FEWEST,
    Acceptance,
    ClassRecall,
    Estimate,
    accept_above,
    class_recalls,
    count_above,
    estimate,
    is_complete,
)
from skal.label.catalogue import Catalogue
from skal.label.folder import LEAVES
from skal.label.snapshot import Snapshot
from skal.label.state import CONFLICT, LABEL, UNSURE, State
from skal.label.stopping import StopTest, is_plateau

#: Assumed seconds per answer if none has been timed.
_TYPICAL = 1.5


@dataclass(frozen=True)
class Status:
    """The status of a labelling session.

    Parameters
    ----------
    n_images, n_labels, n_unsure, n_conflicts : int
        Numbers of images found so far, and of those that are labelled, unsure or in conflict.
    n_training : int
        Number of labels the next model is trained on.
    per_class : dict of str to int
        Number of labels per class.
    n_audit, n_reserved : int
        Number of audit images answered, and in total.
    accuracy : float or None
        Share of the audit images on which the current model agrees with the person. None below 30 answers, and while
        images that were added later are missing among the answers.
    accuracy_hint : str
        If there is no accuracy, the reason, and after about how many more answers there will be one.
    interval, bounds : (float, float) or None
        The 95 % Wilson interval, valid for one look, and the share if the model were wrong, or right, on every image
        the person is unsure about.
    recalls : list of ClassRecall
    acceptance : Acceptance or None
        Confidence above which predictions are right often enough.
    surest : Acceptance or None
        The predictions above the highest confidence that is tested, whether or not they are right often enough.
    model : int
        Version of the current model; 0 if there is none.
    n_newer : int
        Number of training labels that the current model was not trained on; all of them if there is no model.
    curve : list of dict
        For each model, its number of labels and the audit counts when it was trained.
    stop_hint : str
        Advice on when to stop, as text.
    is_reached, is_plateau : bool
        Whether a look has shown the target to be reached; whether more labels change little.
    next_look : int or None
        Number of audit answers at which the target is tested next; None if there is no further test, or one is due.
    seconds_left : float or None
        Labelling time until then; None if there is no such test, the target is reached, or the audit share is 0.
    background, progress, failure : str, float or None, str or None
        The current background task, its share done, and what went wrong.
    not_used : dict of str to int
        Number of imported labels that are not used, by reason: their images are "reserved", a person or an earlier
        import has "decided" the same, or they are "waiting" for their files to be read.
    unreadable, links, duplicates, set_aside : list
        Files that cannot be labelled, links that are left out because they leave the folder, files with the content of
        others, and damage found in the log.
    """

    n_images: int
    n_labels: int
    n_unsure: int
    n_conflicts: int
    n_training: int
    per_class: dict[str, int]
    n_audit: int
    n_reserved: int
    accuracy: float | None
    accuracy_hint: str
    interval: tuple[float, float] | None
    bounds: tuple[float, float] | None
    model: int
    n_newer: int
    stop_hint: str
    is_reached: bool
    is_plateau: bool
    next_look: int | None
    seconds_left: float | None
    target: float | None
    recalls: list[ClassRecall] = field(default_factory=list)
    acceptance: Acceptance | None = None
    surest: Acceptance | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)
    background: str = ""
    progress: float | None = None
    failure: str | None = None
    not_used: dict[str, int] = field(default_factory=dict)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    set_aside: list[str] = field(default_factory=list)

    def leave_out(self, files: Iterable[tuple[str, str]]) -> None:
        """Add files that are in the folder but not in the catalogue, with reasons."""
        for path, reason in files:
            if reason == LEAVES:
                self.links.append(path)
            else:
                self.unreadable.append((path, reason))


class Audit:
    """The current audit of a session.

    Parameters
    ----------
    state : State
    catalogue : Catalogue
    snapshot : Snapshot
    """

    def __init__(self, state: State, catalogue: Catalogue, snapshot: Snapshot):
        places = [state.audited.get(item.id, item.place) for item in catalogue.reserved]
        self.is_complete = is_complete(places, state.audited.values())
        self.n_reserved = len(catalogue.reserved)
        self.n_answered = self.n_sure = self.n_absent = 0
        self.labels: list[str | None] = []
        self.predictions: list[str] = []
        self.confidences: list[float] = []
        for image in sorted(state.audited, key=state.audited.__getitem__):
            predicted, decision = snapshot.predicted(image), state.decision(image)
            is_sure = decision is not None and decision.label is not None
            if predicted is None and image not in catalogue.items:
                self.n_absent += is_sure  # its file is missing or not read yet
                continue
            self.n_answered += 1
            self.n_sure += is_sure
            if predicted is not None and decision is not None:
                self.labels.append(decision.label)
                self.predictions.append(predicted[0])
                self.confidences.append(predicted[1])
        self.is_predicted = len(self.labels) == self.n_answered

    @property
    def estimate(self) -> Estimate:
        return estimate(self.labels, self.predictions)

    def look(self, test: StopTest, done: int, is_whole: bool) -> dict[str, Any] | None:
        """Test the target if a look is due. Looks are fixed before the first answer, and each is taken once.

        Parameters
        ----------
        test : StopTest
        done : int
            Number of looks already taken.
        is_whole : bool
            Whether all images are read, so that the size of the reserve is known.

        Returns
        -------
        found : dict or None
            Place of the look, n, n_right and reached; None if no look is due.
        """
        if not self.is_complete or not self.is_predicted or not self.n_answered:
            return None
        place = test.due(self.n_answered, self.n_reserved if is_whole else None, done)
        if place is None:
            return None
        n_right = self.estimate.n_right
        reached = test.is_reached(n_right, self.n_answered)
        return {"place": place, "n": self.n_answered, "n_right": n_right, "reached": reached}


def report(
    state: State,
    catalogue: Catalogue,
    snapshot: Snapshot,
    test: StopTest | None,
    share: float,
    is_whole: bool,
    **further: Any,
) -> Status:
    """The current status. `further` holds the fields about the background.

    `is_whole` is whether all images are read, so that the size of the reserve is known.
    """
    audit = Audit(state, catalogue, snapshot)
    found = audit.estimate if audit.is_complete else Estimate(0, 0)
    decisions = state.decisions()
    kinds = Counter(decision.kind for decision in decisions.values())
    of_classes = Counter(decision.label for decision in decisions.values() if decision.kind == LABEL)
    kappas = [model.get("kappa") for model in state.models if "kappa" in model]
    plateau = is_plateau(kappas)
    reached = any(look["reached"] for look in state.looks)
    next_look = None if test is None else _next_look(test, audit, state, is_whole)
    left = None if next_look is None or reached else _seconds_left(next_look - audit.n_answered, share, state)
    is_right = [label == predicted for label, predicted in zip(audit.labels, audit.predictions, strict=True)]
    level = 0.95 if test is None else test.target
    return Status(
        n_images=len(catalogue.items),
        n_labels=kinds[LABEL],
        n_unsure=kinds[UNSURE],
        n_conflicts=kinds[CONFLICT],
        per_class={label: of_classes[label] for label in state.classes},
        n_audit=audit.n_answered,
        n_reserved=audit.n_reserved,
        accuracy=found.accuracy,
        accuracy_hint="" if found.is_shown else _accuracy_hint(audit, share, catalogue, state, is_whole),
        interval=found.interval,
        bounds=found.bounds,
        recalls=class_recalls(audit.labels, audit.predictions, snapshot.classes) if found.is_shown else [],
        acceptance=accept_above(audit.confidences, is_right, level) if found.is_shown else None,
        surest=count_above(audit.confidences, is_right, CONFIDENCES[-1]) if found.is_shown else None,
        model=snapshot.version if snapshot.classes else 0,
        n_newer=n_newer(state, catalogue, snapshot),
        curve=[{"n_labels": model["n_labels"], "audit": model.get("audit")} for model in state.models],
        stop_hint=_stop_hint(test, plateau, audit, next_look, state),
        is_reached=reached,
        is_plateau=plateau,
        next_look=next_look,
        seconds_left=left,
        not_used=dict(state.not_used + Counter(waiting=sum(map(len, state.waiting.values())))),
        target=None if test is None else test.target,
        unreadable=list(catalogue.unreadable.items()),
        duplicates=list(catalogue.duplicates),
        **further,
    )


def n_newer(state: State, catalogue: Catalogue, snapshot: Snapshot) -> int:
    """Number of training labels given since the model was trained; all of them if there is no model."""
    count = 0
    for image, decision in state.decided_since(snapshot.n_events):
        item = catalogue.items.get(image)
        is_held = item is None or item.is_reserved or item.is_shadow
        count += decision.label is not None and not is_held
    return count


def in_percent(target: float) -> str:
    """A target as text, not rounded to a different one.

    Examples
    --------
    >>> in_percent(0.95), in_percent(0.975), in_percent(0.57)
    ('95 %', '97.5 %', '57 %')
    """
    return f"{100 * target:.6g} %"


def _accuracy_hint(audit: Audit, share: float, catalogue: Catalogue, state: State, is_whole: bool) -> str:
    """Why there is no accuracy yet, and when there will be one."""
    n_sure = audit.n_sure if is_whole else audit.n_sure + audit.n_absent
    left = FEWEST - n_sure
    if not share:
        return "The audit share is 0, so there is no accuracy."
    if left <= 0:
        return "Shown with the next model." if audit.is_complete else "Not shown while audit answers are missing."
    given = f"{n_sure} of at least {FEWEST} audit answers"
    if is_whole and left > audit.n_reserved - audit.n_answered:
        return f"{given}, but only {audit.n_reserved} images are reserved. Add images to the folder."
    n_open = sum(image not in state for image in catalogue.items)
    answers = min(math.ceil(left / share), n_open) if is_whole else math.ceil(left / share)
    return f"About {answers} more answers until it is shown: {given}."


def _next_look(test: StopTest, audit: Audit, state: State, is_whole: bool) -> int | None:
    """Number of audit answers at the next look; None if there is none, or one is due."""
    if test.due(audit.n_answered, audit.n_reserved if is_whole else None, state.n_looks) is not None:
        return None
    for place in range(state.n_looks, len(test.looks)):
        n = test.looks[place]
        if is_whole:  # the draw may reserve more than expected, or fewer
            n = audit.n_reserved if place == len(test.looks) - 1 else min(n, audit.n_reserved)
        if n > audit.n_answered:
            return n
    return None


def _seconds_left(n_audit: int, share: float, state: State) -> float | None:
    typical = statistics.median(state.seconds) if state.seconds else _TYPICAL
    return n_audit / share * typical if share else None


def _stop_hint(test: StopTest | None, plateau: bool, audit: Audit, next_look: int | None, state: State) -> str:
    parts = []
    if not audit.is_complete:
        parts.append(
            "Audit answers are missing, for example because images were added or because another tab shows them. No "
            "accuracy is shown until these images are answered."
        )
    parts.append("No target is set." if test is None else _target_hint(test, audit, next_look, state))
    if plateau:
        parts.append(
            "The last models agree, so more labels of this kind change little. This does not say how good the model is."
        )
    return " ".join(parts)


def _target_hint(test: StopTest, audit: Audit, next_look: int | None, state: State) -> str:
    """The results of the tests of the target so far, and when the next one is."""
    if not test.looks:
        few = f"{audit.n_reserved} reserved images are too few to test the target of {in_percent(test.target)}"
        return f"{few}; the accuracy is still shown."
    for look in state.looks:
        if look["reached"]:
            return f"The target of {in_percent(test.target)} is reached. {_found(test, look)}"
    before = f"{_found(test, state.looks[-1])} " if state.looks else ""
    if state.n_looks == len(test.looks):
        return f"{before}All tests of the target of {in_percent(test.target)} are done; none of them confirmed it."
    if next_look is None:
        return f"{before}A test is due. It runs once all images are read and a model has predicted them."
    needed = test.needed(next_look)
    if needed is None:
        right = "even all right would not be enough"
    else:
        right = f"{'all' if needed == next_look else 'at least'} {needed} must be right then"
    place = "Next test" if state.looks else f"First test of the target of {in_percent(test.target)}"
    return f"{before}{place} at {next_look} audit answers: {right}. {_so_far(audit)}"


def _so_far(audit: Audit) -> str:
    """The audit answers so far; how many are right only when the accuracy is shown too."""
    found = audit.estimate
    if audit.is_complete and audit.is_predicted and found.is_shown:
        return f"Now {found.n_right} of {found.n}; every new model is compared with all of them again."
    return f"{audit.n_answered} answered so far."


def _found(test: StopTest, look: dict[str, Any]) -> str:
    """The result of a test, as text."""
    needed = test.needed(look["n"])
    enough = "even all would not have been enough" if needed is None else f"{needed} were needed"
    return f"Tested at {look['n']}: {look['n_right']} right, {enough}."
