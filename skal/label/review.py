"""Selection of labels to review."""

from __future__ import annotations

from dataclasses import dataclass

from skal.label.asking import Desk, Question
from skal.label.state import CONFLICT, LABEL, UNSURE, State

DOUBT = "doubt"


@dataclass(frozen=True)
class Doubt:
    """An image to review.

    Parameters
    ----------
    question : Question
    kind : {"conflict", "unsure", "doubt"}
        Answers contradict each other, the person was unsure, or the model gives the label a low probability.
    labels : tuple of str
        The existing labels.
    """

    question: Question
    kind: str
    labels: tuple[str, ...]


def doubts(state: State, desk: Desk, n: int) -> list[Doubt]:
    """At most n images: conflicts, then unsure ones, then the labels that the model finds least probable.

    About half of the labels a model doubts are right, so they are only shown to a person and nothing is changed. Audit
    images are never ranked by the model, and are shown without its prediction.
    """
    found: dict[str, list[Doubt]] = {CONFLICT: [], UNSURE: []}
    ranked: list[tuple[float, str]] = []
    for image, decision in state.decisions().items():
        item = desk.catalogue.items.get(image)
        if item is None or (decision.event.get("why") == "review" and decision.event["image"] == image):
            continue
        if decision.kind in found:
            found[decision.kind].append(Doubt(desk.question(item, "review"), decision.kind, decision.labels))
        elif decision.kind == LABEL and not item.is_reserved:
            predicted = desk.snapshot.predicted(image)
            probability = desk.snapshot.probability(image, decision.labels[0])
            if predicted is not None and probability is not None and predicted[0] != decision.labels[0]:
                ranked.append((probability, image))
    doubted = []
    for _, image in sorted(ranked)[:n]:
        item, decision_now = desk.catalogue.items[image], state.decision(image)
        assert decision_now is not None
        doubted.append(Doubt(desk.question(item, "review"), DOUBT, decision_now.labels))
    return [*found[CONFLICT], *found[UNSURE], *doubted][:n]
