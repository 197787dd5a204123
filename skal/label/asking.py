"""Which image is asked next, and which tab is showing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import monotonic

from skal.label.catalogue import Catalogue, Item
from skal.label.snapshot import Snapshot
from skal.label.state import State

#: Seconds after which an image that is assigned to a tab can be assigned to another.
LEASE_SECONDS = 120
#: Seconds of silence after which a tab counts as closed. An open tab reports every two seconds.
SILENT_SECONDS = 20
_EPSILON = 1e-9


@dataclass(frozen=True)
class Question:
    """An image for a person to look at.

    Parameters
    ----------
    id : str
        Hash of the image's content.
    path : str
        Path of its file.
    why : {"audit", "strategy", "random", "ask", "review"}
        Why it is asked. An audit image is never trained on and has no suggestion.
    suggestion : str or None
        The class that the model predicts.
    probability : float or None
        Probability of the suggestion.
    model : int or None
        Version of the model that made the suggestion.
    group : tuple of str
        Near-duplicates that get the same label.
    """

    id: str
    path: str
    why: str
    suggestion: str | None = None
    probability: float | None = None
    model: int | None = None
    group: tuple[str, ...] = ()


class Desk:
    """Assigns questions to tabs: audit images at a fixed share, interleaved with those of the strategy.

    The questions depend only on the labels, the queue and the images, so a session that was killed resumes with the
    same question.

    Parameters
    ----------
    catalogue : Catalogue
    state : State
    audit : float
        Share of audit images among the questions.
    replaced : callable, default says no
        Whether the file of an image has been replaced. Such an image is set aside.
    """

    def __init__(
        self, catalogue: Catalogue, state: State, audit: float, replaced: Callable[[Item], bool] = lambda item: False
    ):
        self._replaced = replaced
        self.catalogue, self.state, self.audit = catalogue, state, audit
        self.snapshot = Snapshot()
        self.returned: dict[str, str] = {}  # images that a tab returned, and why they were asked
        self.asked: dict[str, None] = {}  # requested by the caller, asked before all others
        self._given: dict[str, list[Question]] = {}
        self._until: dict[str, float] = {}
        self._heard: dict[str, float] = {}  # when each tab last reported that it is open
        self._first = 0  # everything before this position of the catalogue has been asked

    # --------------------------------------------------------------- leases

    def questions(self, tab: str, n: int) -> list[Question]:
        """The next questions of a tab: those it already has, then further ones, up to `n`."""
        self._expire(tab)
        given = [question for question in self._given.get(tab, []) if self.is_open(question.id)]
        given = self._given[tab] = [*self._newly_asked(), *given]
        while len(given) < n:
            chosen = self._choose(tab)
            if chosen is None:
                break
            if self._replaced(chosen[0]):
                continue
            given.append(self.question(*chosen))
        self._until[tab] = monotonic() + LEASE_SECONDS
        return given[:n]

    def _newly_asked(self) -> list[Question]:
        """Images the caller asks about, which come before the questions a tab already has."""
        taken = {question.id for question in self.out}
        items = [self.catalogue.items[image] for image in self.asked if self.is_open(image) and image not in taken]
        return [self.question(item, "ask") for item in items]

    def _expire(self, tab: str) -> None:
        now = monotonic()
        for other, until in list(self._until.items()):
            is_gone = until < now or now - self._heard.get(other, now) > SILENT_SECONDS
            if is_gone and other != tab:
                self.forget(other)

    def hear(self, tab: str) -> None:
        """Note that a tab is open. When it stops reporting, its questions are given to others."""
        self._heard[tab] = monotonic()

    def forget(self, tab: str) -> None:
        """Take back the questions of a tab, such as a closed one. The next tab gets them in the same order."""
        self.returned |= {question.id: question.why for question in self._given.pop(tab, [])}
        self._until.pop(tab, None)
        self._heard.pop(tab, None)

    def rename(self, label: str, to: str) -> None:
        """Rename a class in the predictions, and in the suggestions of assigned questions."""
        self.snapshot.rename(label, to)
        for tab, questions in self._given.items():
            self._given[tab] = [replace(q, suggestion=to) if q.suggestion == label else q for q in questions]

    def put_first(self, tab: str, image: str) -> None:
        """Ask an image again, before the other questions of the tab."""
        item = self.catalogue.items.get(image)
        if item is not None:
            others = [question for question in self._given.get(tab, []) if question.id != image]
            self._given[tab] = [self.question(item, "audit" if item.is_reserved else "strategy"), *others]

    def given(self, image: str) -> Question | None:
        """The question about an image, if a tab has it."""
        return next((q for questions in self._given.values() for q in questions if q.id == image), None)

    @property
    def out(self) -> list[Question]:
        """All questions that are assigned and not answered."""
        return [q for questions in self._given.values() for q in questions if self.is_open(q.id)]

    def keep_out(self, snapshot: Snapshot) -> None:
        """Store the assigned questions in a new snapshot, so that they come first even after a crash."""
        returned = {image: why for image, why in self.returned.items() if self.is_open(image)}
        out = returned | {question.id: question.why for question in self.out}
        snapshot.out = {image: why for image, why in out.items() if why in ("strategy", "random")}

    # --------------------------------------------------------------- choice

    def is_open(self, image: str) -> bool:
        """Whether an image is there and has no answer."""
        return image in self.catalogue.items and image not in self.state

    def can_be_asked(self, item: Item) -> bool:
        """Whether the strategy may ask an image."""
        if item.is_reserved or item.is_shadow or item.id in self.state or not self.catalogue.holds(item):
            return False
        return item.leader is None or item.leader in self.state or item.leader not in self.catalogue.items

    def _choose(self, tab: str) -> tuple[Item, str] | None:
        out = self.out
        taken = {question.id for question in out}
        for image in self.state.again:
            item = self.catalogue.items.get(image)
            if item is not None and image not in taken and image not in self.state:
                return item, "audit" if item.is_reserved else "strategy"
        for image, why in list(self.returned.items()):
            if self.is_open(image) and image not in taken:
                return self.catalogue.items[image], why
            del self.returned[image]
        n_audit = self.state.counts["audit"] + sum(question.why == "audit" for question in out)
        n_other = sum(self.state.counts[why] for why in ("strategy", "random"))
        n_other += sum(question.why in ("strategy", "random") for question in out)
        wants_audit = n_audit + 1 <= self.audit * (n_audit + n_other + 1) + _EPSILON
        sources = [self._audit(taken, tab), self._training(taken)]
        for source in sources if wants_audit else reversed(sources):
            chosen = next(source, None)
            if chosen is not None:
                return chosen
        return None

    def _audit(self, taken: set[str], tab: str) -> Iterator[tuple[Item, str]]:
        """Reserved images in keyed order, up to the first one that another tab has.

        The answers are a random sample only if none is missing before the last one, so a gap would hide the accuracy
        until the other tab has answered. :meth:`_expire` makes the questions of closed tabs come first.
        """
        own = {question.id for question in self._given.get(tab, ())}
        for item in self.catalogue.reserved:
            if item.id in taken and item.id not in own:
                return
            if item.id not in self.state and item.id not in taken:
                yield item, "audit"

    def _training(self, taken: set[str]) -> Iterator[tuple[Item, str]]:
        queue = [*self.snapshot.out.items(), *((image, "strategy") for image in self.snapshot.queue)]
        for image, why in queue:
            item = self.catalogue.items.get(image)
            if item is not None and image not in taken and self.can_be_asked(item):
                yield item, why
        order = self.catalogue.order
        while self._first < len(order) and (order[self._first].id in self.state or order[self._first].is_reserved):
            self._first += 1
        for item in order[self._first :]:
            if item.id not in taken and self.can_be_asked(item):
                yield item, "random"

    def rewind(self) -> None:
        """Search the whole catalogue again, for example after an undo."""
        self._first = 0

    def question(self, item: Item, why: str) -> Question:
        """An image as a question. Audit images have no suggestion and no group."""
        predicted = None if item.is_reserved else self.snapshot.predicted(item.id)
        suggestion, probability = predicted or (None, None)
        group: list[str] = []
        if item.id in self.state:
            group = self.state.decided_with(item.id)
        elif not item.is_reserved:
            group = [i for i in item.followers if self.is_open(i) and not self.catalogue.items[i].is_shadow]
        model = None if predicted is None else self.snapshot.version
        return Question(item.id, self.catalogue.file(item.path), why, suggestion, probability, model, tuple(group))
