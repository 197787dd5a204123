"""The state that follows from the log: the current label of each image after undos, renames and conflicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from skal.label.log import Event

#: Events that a person makes and may undo, and all others.
UNDOABLE = ("answer", "unsure", "grid", "class", "rename", "merge")
_OTHERS = ("undo", "waiting", "import", "model", "look")
LABEL, UNSURE, CONFLICT = "label", "unsure", "conflict"


@dataclass(frozen=True)
class Decision:
    """The decision about an image.

    Parameters
    ----------
    kind : {"label", "unsure", "conflict"}
    labels : tuple of str
        One for a label, none for unsure, all given ones for a conflict, where unsure is ``""``.
    event : dict
        The last event about the image.
    """

    kind: str
    labels: tuple[str, ...]
    event: Event

    @property
    def label(self) -> str | None:
        return self.labels[0] if self.kind == LABEL else None


class State:
    """Labels, classes and undoable actions, computed from events in order.

    An answer replaces an earlier one from the same tab, and a review replaces any. A different answer from another tab
    creates a conflict, and both are kept. Imported labels that differ also create a conflict.

    Parameters
    ----------
    events : iterable of dict, default=()

    Attributes
    ----------
    models, looks : list of dict
        Events of these kinds.
    waiting : dict of str to list of str
        Imported labels of files that are not read yet, by path.
    not_used : Counter of str
        Number of imported labels that were not used, by reason: "reserved" or "decided".

    Raises
    ------
    ValueError
        If there is an event of an unknown kind, for example in the log of a later version.
    """

    def __init__(self, events: Iterable[Event] = ()):
        self.reset(events)

    def reset(self, events: Iterable[Event]) -> None:
        """Discard everything and apply these events."""
        self._events: list[Event] = []
        self._memo: dict[str, Decision] | None = None
        self._clear()
        events = list(events)
        self._undone: set[str] = {event["event"] for event in events if event["kind"] == "undo"}
        for event in events:
            self.apply(event)

    def _clear(self) -> None:
        self._names: dict[int, str] = {}  # of each class, by number, so a rename changes one place
        self._numbers: dict[str, int] = {}
        self._merged: dict[int, int] = {}
        self._histories: dict[str, list[tuple[Event, int | None]]] = {}
        self._again: dict[str, None] = {}
        self._rejected: dict[str, list[tuple[Event, int | None]]] = {}  # like the histories
        self.audited: dict[str, int] = {}
        self.waiting: dict[str, list[str]] = {}
        self.not_used: Counter[str] = Counter()
        self.models: list[Event] = []
        self.looks: list[Event] = []
        self._stacks: dict[str, list[Event]] = {}
        self.counts: Counter[str] = Counter()
        self.seconds: list[float] = []

    # ---------------------------------------------------------------- events

    def apply(self, event: Event) -> None:
        """Apply an event."""
        if event["kind"] not in UNDOABLE and event["kind"] not in _OTHERS:
            raise ValueError(f"the log contains an event of kind {event['kind']!r}, which this version does not know")
        self._memo = None
        self._events.append(event)
        if event["kind"] == "undo":
            self._undo(event["event"])
        elif event["id"] not in self._undone:
            self._take(event)
        elif event["kind"] in ("answer", "grid"):
            self._number(event["label"])  # a class that it created stays

    def _take(self, event: Event) -> None:
        kind = event["kind"]
        if kind in ("answer", "unsure", "grid"):
            self._decide(event)
        elif kind == "class":
            self._number(event["label"])
        elif kind in ("rename", "merge"):
            self._rename(event["label"], event["to"])
        elif kind == "import":
            for image, _, label in event["labels"]:
                number = self._number(label)
                self._histories.setdefault(image, []).append((event, number))
            for path in event.get("read", ()):
                self.waiting.pop(path, None)
            self.not_used.update(event.get("not_used", {}))
        elif kind == "waiting":
            for path, label in event["labels"]:
                self.waiting.setdefault(path, []).append(label)
        elif kind == "model":
            self.models.append(event)
        elif kind == "look":
            self.looks.append(event)
        if kind in UNDOABLE:
            self._stacks.setdefault(event.get("tab", ""), []).append(event)

    def _decide(self, event: Event) -> None:
        number = None if event["kind"] == "unsure" else self._number(event["label"])
        for image in images_of(event):
            self._histories.setdefault(image, []).append((event, number))
        for image in event.get("rejected", ()):
            self._rejected.setdefault(image, []).append((event, number))
        if "place" in event:
            self.audited[event["image"]] = event["place"]
        self.counts[event["why"]] += 1
        if event.get("seconds") is not None:
            self.seconds.append(event["seconds"])

    def _undo(self, event_id: str) -> None:
        event = next((e for e in reversed(self._events) if e["id"] == event_id), None)
        if event is None or event["kind"] not in UNDOABLE:
            return
        if event_id in self._undone:  # known in advance, as when a log is read: it was never applied
            self._ask_again(event)
            return
        self._undone.add(event_id)
        if event["kind"] not in ("answer", "unsure", "grid"):  # rare, and changes the meaning of other events
            self._replay()
            return
        self._stacks[event.get("tab", "")].remove(event)
        for image in images_of(event):
            self._histories[image] = [entry for entry in self._histories[image] if entry[0] is not event]
            if not self._histories[image]:
                del self._histories[image]
        for image in event.get("rejected", ()):
            self._rejected[image] = [entry for entry in self._rejected[image] if entry[0] is not event]
        if "place" in event:
            image = event["image"]
            others = [e for e, _ in self._histories.get(image, ()) if "place" in e and e["image"] == image]
            places = [other["place"] for other in others]
            del self.audited[image]
            if places:
                self.audited[image] = places[-1]
        self.counts[event["why"]] -= 1
        if event.get("seconds") is not None:
            self.seconds.remove(event["seconds"])
        self._ask_again(event)

    def _ask_again(self, event: Event) -> None:
        if event["kind"] in ("answer", "unsure"):
            self._again.pop(event["image"], None)  # the one undone last comes first
            self._again[event["image"]] = None

    def _replay(self) -> None:
        events, self._events = self._events, []
        self._clear()
        for event in events:
            self.apply(event)

    # --------------------------------------------------------------- classes

    def _number(self, name: str) -> int:
        """Number of the class with this name, which is created if needed."""
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self._names)
            self._names[number] = name
        return number

    def _rename(self, name: str, to: str) -> None:
        number = self._number(name)
        del self._numbers[name]
        if to in self._numbers:
            self._merged[number] = self._numbers[to]
        else:
            self._names[number] = to
            self._numbers[to] = number

    def _name(self, number: int) -> str:
        while number in self._merged:
            number = self._merged[number]
        return self._names[number]

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order they were created."""
        return [name for number, name in self._names.items() if number not in self._merged]

    # ---------------------------------------------------------------- labels

    def decision(self, image: str) -> Decision | None:
        """The decision about an image, or None."""
        history = self._histories.get(image)
        return None if history is None else self._decision(history)

    def _decision(self, history: list[tuple[Event, int | None]]) -> Decision:
        standing: list[tuple[Event, int | None]] = []
        for event, number in history:
            standing = [entry for entry in standing if not _replaces(event, entry[0])]
            standing.append((event, number))
        names = list(dict.fromkeys("" if number is None else self._name(number) for _, number in standing))
        last = standing[-1][0]
        if len(names) > 1:
            return Decision(CONFLICT, tuple(sorted(names)), last)
        return Decision(UNSURE, (), last) if names == [""] else Decision(LABEL, (names[0],), last)

    def decided_with(self, image: str) -> list[str]:
        """The near-duplicates that got their decision from the one about this image, and no other one since."""
        decision = self.decision(image)
        if decision is None or decision.event.get("image") != image:
            return []
        others = {other: self.decision(other) for other in decision.event.get("group", ())}
        return [other for other, given in others.items() if given is not None and given.event is decision.event]

    def decisions(self) -> dict[str, Decision]:
        """The decisions about all images that have one."""
        if self._memo is None:
            self._memo = {image: self._decision(history) for image, history in self._histories.items()}
        return self._memo

    def labels(self) -> dict[str, str]:
        """The label of each image that has one."""
        return {image: decision.label for image, decision in self.decisions().items() if decision.label is not None}

    def decided_since(self, n_events: int) -> list[tuple[str, Decision]]:
        """The decisions whose last event came after the first `n_events`."""
        late = {event["id"] for event in self._events[n_events:]}
        return [(image, decision) for image, decision in self.decisions().items() if decision.event["id"] in late]

    def is_settled(self, image: str, label: str) -> bool:
        """Whether a person has decided about an image, or it was imported with this label."""
        history = self._histories.get(image, ())
        return any(event["kind"] != "import" or self._name(number or 0) == label for event, number in history)

    def is_rejected(self, image: str, label: str) -> bool:
        """Whether an image was marked as wrong in a grid of this class."""
        return self._numbers.get(label) in [number for _, number in self._rejected.get(image, ())]

    def __contains__(self, image: object) -> bool:
        return image in self._histories

    @property
    def n_looks(self) -> int:
        """Number of looks of the stop test that are over."""
        return max((look["place"] for look in self.looks), default=-1) + 1

    @property
    def again(self) -> list[str]:
        """Images whose answer was undone and that have none now, most recent first."""
        return [image for image in reversed(self._again) if image not in self._histories]

    @property
    def n_events(self) -> int:
        """Number of events so far."""
        return len(self._events)

    def renames_since(self, n_events: int) -> list[tuple[str, str]]:
        """Old and new names of the classes renamed or merged after the first `n_events`, in order.

        A model trained at that time has the old names.
        """
        undone = {event["event"] for event in self._events[n_events:] if event["kind"] == "undo"}
        before = {event["id"]: event for event in self._events[:n_events] if event["kind"] == "rename"}
        pairs = []
        for event in self._events[n_events:]:
            if event["kind"] in ("rename", "merge") and event["id"] not in undone:
                pairs.append((event["label"], event["to"]))
            elif event["kind"] == "undo" and event["event"] in before:
                renamed = before[event["event"]]
                pairs.append((renamed["to"], renamed["label"]))
        return pairs

    def last_of(self, tab: str) -> Event | None:
        """The last event of a tab that can be undone."""
        stack = self._stacks.get(tab)
        return stack[-1] if stack else None


def _replaces(event: Event, earlier: Event) -> bool:
    """Whether an event replaces an earlier one about the same image."""
    if event["kind"] == earlier["kind"] == "import":  # labels of two sources, or of two copies of a file
        return False
    return event.get("why") == "review" or event.get("tab") == earlier.get("tab")


def images_of(event: Event) -> list[str]:
    """The images an event is about."""
    if event["kind"] == "grid":
        return list(event["images"])
    return [event["image"], *event.get("group", ())]


def path_of(event: Event, image: str) -> str:
    """The path of an image when the event was recorded; empty if the event does not contain it."""
    if event["kind"] == "import":
        return next((str(path) for own, path, _ in event["labels"] if own == image), "")
    if event["kind"] == "grid":
        return str(dict(zip(event["images"], event["paths"], strict=True)).get(image, ""))
    return str(event.get("path", "")) if event.get("image") == image else ""
