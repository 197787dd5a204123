"""Background modelling: the pool is embedded, models are fitted, and each model's queue replaces the previous one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np

from skal.label import fitting
from skal.label.asking import Desk
from skal.label.background import Share
from skal.label.catalogue import Item
from skal.label.log import LogError
from skal.label.project import Project
from skal.label.reading import Reading
from skal.label.report import Audit
from skal.label.snapshot import Snapshot
from skal.label.stopping import is_apart, kappa

#: Maximum unlabelled images embedded, predicted and queried, so time and memory do not grow with the folder.
WINDOW = 10_000
#: Images embedded before the first query.
FIRST = 256
#: Images on which successive models are compared.
COMPARED = 2_000
#: Batches in a queue, so that nobody waits while the next model is trained.
_BATCHES = 3


class Modelling:
    """Provides the tasks of the background worker.

    Parameters
    ----------
    desk : Desk
    reading : Reading
    project : Project
    estimator, query
        As in :class:`skal.label.LabelSession`.
    network : dict
        The network of the project's settings, used if no estimator is given.
    batch_size : int
        Changes of labels between two models.
    seed : int
    changed : Condition
        Held by any code that reads or changes the session.
    record : callable
        Adds an event to the session's log and state.
    swapped : callable
        Called, with the condition held, when a new snapshot is in place.

    Attributes
    ----------
    model : estimator or None
        The most recently fitted model.
    doing : str
        Description of the current task.
    failure : str or None
        The last failure.
    """

    def __init__(
        self,
        desk: Desk,
        reading: Reading,
        project: Project,
        *,
        estimator: Any,
        network: dict[str, Any],
        query: Any,
        batch_size: int,
        seed: int,
        changed: threading.Condition,
        record: Callable[[dict[str, Any]], bool],
        swapped: Callable[[], None],
    ):
        self._desk, self._reading, self._project = desk, reading, project
        self._catalogue, self._state = desk.catalogue, desk.state
        self._given, self._network, self._query = estimator, network, query
        self._batch_size, self._seed = batch_size, seed
        self._changed, self._record, self._swapped = changed, record, swapped
        self._share = Share()
        # Images that an earlier session predicted are in the estimator's cache; otherwise the next fit computes them.
        self._embedded = {image for image in desk.snapshot.ids if image in desk.catalogue.items}
        self._to_embed = 0
        self._explored = desk.snapshot.explored
        self.n_changes = 0  # of labels, since the last fit began
        self.wanted = self.fitted = 0  # number of fits requested, and completed
        self.is_stopping = False
        self.model: Any = None
        self.doing = ""
        self.failure: str | None = None

    @cached_property
    def _estimator(self) -> Any:
        """Created by the first task that needs it, since the imports of the default take seconds."""
        if self._given is None:
            return fitting.build_estimator(self._network, self._project.activations, self._seed)
        return self._given

    # ---------------------------------------------------------------- tasks

    def next_task(self) -> Callable[[], None] | None:
        """The next task; called with the condition held."""
        self.doing = ""
        chunk, end = self._chunk()
        if self.wanted > self.fitted or (self._is_due and not (chunk and self._share.is_for_embedding)):
            self.doing = "Training a model."
            return self._fit
        if chunk:
            self.doing = "Computing features of the images."
            return partial(self._embed_to, end, chunk)
        if self._explores():
            self.doing = "Choosing the first images."
            return self._explore
        return None

    def failed(self, error: Exception) -> None:
        """Record that a task raised."""
        if isinstance(error, fitting.StoppedError):
            return
        self.failure = f"{type(error).__name__}: {error}"
        self.fitted, self.n_changes = self.wanted, 0  # the next attempt is with the next labels
        self._changed.notify_all()

    @property
    def progress(self) -> float:
        """Share of the images that have been embedded."""
        total = min(WINDOW, len(self._catalogue.items) + self._reading.n_left)
        return min(1.0, len(self._embedded) / total) if total else 1.0

    @property
    def _is_due(self) -> bool:
        return self.n_changes >= self._batch_size and len({label for _, label in self.training()}) > 1

    def training(self) -> list[tuple[Item, str]]:
        """Labelled images that a model may be trained on, with their labels."""
        items = self._catalogue.items
        found = []
        for image, decision in self._state.decisions().items():
            item = items.get(image)
            if item is not None and decision.label is not None and not item.is_reserved and not item.is_shadow:
                found.append((item, decision.label))
        return found

    # ------------------------------------------------------------ embedding

    def _chunk(self) -> tuple[list[Item], int]:
        """The next images to embed, and the position after them."""
        order = self._catalogue.order
        while self._to_embed < len(order) and not self._is_wanted(order[self._to_embed]):
            self._to_embed += 1
        if len(self._embedded) - len(self._state.decisions()) >= WINDOW:
            return [], self._to_embed
        chunk = order[self._to_embed : self._to_embed + fitting.BLOCK]
        return [item for item in chunk if self._is_wanted(item)], self._to_embed + len(chunk)

    def _is_wanted(self, item: Item) -> bool:
        if item.id in self._embedded:
            return False
        return self._desk.can_be_asked(item) or (item.is_reserved and self._catalogue.holds(item))

    def _embed_to(self, end: int, chunk: list[Item]) -> None:
        with self._changed:
            self._to_embed = end  # if the estimator fails, the next attempt is after a model has been fitted
        self._embed(chunk)

    def _embed(self, chunk: list[Item]) -> None:
        """Compute the features of some images. Those that the estimator cannot read are set aside."""
        sound = self._sound(chunk)
        try:
            if sound:
                fitting.embed(self._estimator, [self._catalogue.file(item.path) for item in sound])
        except Exception:
            for item in list(sound):
                path = self._catalogue.file(item.path)
                try:
                    fitting.embed(self._estimator, [path])
                except ValueError as error:
                    if repr(path) not in str(error):  # not about this file
                        raise
                    sound.remove(item)
                    with self._changed:
                        self._reading.exclude(item, str(error))
        with self._changed:
            self._embedded.update(item.id for item in sound)

    def _sound(self, items: list[Item]) -> list[Item]:
        """Images whose files have not changed. The others are set aside and read again."""
        changed = [item for item in items if self._catalogue.has_changed(item)]
        with self._changed:
            for item in changed:
                self._reading.replaced(item)
        return [item for item in items if item not in changed]

    # -------------------------------------------------------------- queries

    def _pool(self) -> list[Item]:
        """Embedded images that may be asked, in the order of the catalogue."""
        pool = []
        for item in self._catalogue.order:
            if item.id in self._embedded and self._desk.can_be_asked(item):
                pool.append(item)
                if len(pool) == WINDOW:
                    break
        return pool

    def _explores(self) -> bool:
        """Whether to query without labels: done once on the first part of the images, and once on all of them."""
        if self._desk.snapshot.version or self._explored == 2 or not self._embedded:
            return False
        return self._reading.is_done or (self._explored == 0 and len(self._embedded) >= FIRST)

    def _explore(self) -> None:
        with self._changed:
            self._explored = 2 if self._reading.is_done else 1
            pool = self._pool()
        picks = self._choose(fitting.Learner(self._estimator), self._sound(pool), set())
        with self._changed:
            self._swap(Snapshot(queue=picks, explored=self._explored))

    def _choose(self, learner: fitting.Learner, pool: list[Item], out: set[str]) -> list[str]:
        """Images to ask, in order. If the strategy fails, there are none and the failure is recorded."""
        pool = [item for item in pool if item.id not in out]
        paths = [self._catalogue.file(item.path) for item in pool]
        n = _BATCHES * self._batch_size
        try:
            picks = fitting.choose(self._query, learner, paths, n, self._seed + self._desk.snapshot.version)
        except Exception as error:  # strategies may raise anything
            with self._changed:
                self.failure = f"the strategy failed, so images are drawn at random: {type(error).__name__}: {error}"
            return []
        return [pool[i].id for i in picks]

    # ----------------------------------------------------------------- fits

    def _fit(self) -> None:
        """Train a model. An error is ignored if a file has changed or cannot be read, so that training is retried."""
        used: list[Item] = []
        try:
            self._train(used)
        except fitting.StoppedError:
            raise
        except Exception:
            fresh = [item for item in self._sound(used) if item.id not in self._embedded]
            for start in range(0, len(fresh), fitting.BLOCK):
                if self.is_stopping:
                    raise
                self._embed(fresh[start : start + fitting.BLOCK])
            if all(self._catalogue.holds(item) for item in used):
                raise

    def _train(self, used: list[Item]) -> None:
        """Train on the current labels. `used` is filled with the images whose files are needed."""
        start = time.monotonic()
        with self._changed:
            ticket, n_changes = self.wanted, self.n_changes
            n_events = self._state.n_events
            before = self._desk.snapshot
            training = self.training()
            pool = self._pool()
            out = {question.id for question in self._desk.out} | set(self._desk.returned)
            audited = [self._catalogue.items[i] for i in self._state.audited if i in self._catalogue.items]
            reserved = [item for item in self._catalogue.reserved if item.id in self._embedded]
        pool = self._sound(pool)
        sound = set(self._sound([item for item, _ in training]))
        training = [(item, label) for item, label in training if item in sound]
        paths = [self._catalogue.file(item.path) for item, _ in training]
        labels = [label for _, label in training]
        if len(set(labels)) < 2:
            raise ValueError("training requires labels of at least two classes")
        held = self._sound(list(dict.fromkeys([*reserved, *audited])))
        used += [*pool, *held, *sound]
        # Without their labels, reserved images belong to the unlabelled pool.
        unlabeled = [self._catalogue.file(item.path) for item in (*pool, *held)]
        model = fitting.fit(self._estimator, paths, labels, unlabeled)
        predicted = list(dict.fromkeys([*pool, *held, *(item for item, _ in training)]))
        proba = fitting.predict(model, [self._catalogue.file(i.path) for i in predicted], lambda: not self.is_stopping)
        picks = self._choose(fitting.Learner(model, np.array(paths), np.array(labels)), pool, out)
        snapshot = Snapshot(
            before.version + 1,
            len(labels),
            [str(name) for name in model.classes_],
            [item.id for item in predicted],
            proba,
            picks,
            n_events=n_events,
        )
        event = self._compare(snapshot, before)
        self._save(model)
        with self._changed:
            self.model, self.failure = model, None
            self._to_embed = 0
            self.n_changes -= n_changes
            self.fitted = max(self.fitted, ticket)
            self._swap(snapshot)
            found = Audit(self._state, self._catalogue, self._desk.snapshot)
            if found.is_complete:
                counts = found.estimate
                event["audit"] = [counts.n_right, counts.n_wrong, counts.n_unsure]
            event["seconds"] = round(time.monotonic() - start, 3)
            self.note(event)
        self._share.fitted(time.monotonic() - start)

    def _compare(self, snapshot: Snapshot, before: Snapshot) -> dict[str, Any]:
        """The event of a model, with its kappa if it is far enough from the last model that was compared."""
        event: dict[str, Any] = {
            "id": f"model:{snapshot.version}",
            "kind": "model",
            "version": snapshot.version,
            "n_labels": snapshot.n_labels,
        }
        snapshot.compared, snapshot.n_compared = before.compared, before.n_compared
        if not before.compared or is_apart(snapshot.n_labels, before.n_compared):
            with self._changed:
                fixed = [item.id for item in self._catalogue.order if not item.is_reserved][:COMPARED]
            predictions = snapshot.predictions()
            common = [image for image in fixed if image in predictions and image in before.compared]
            if common:
                event["kappa"] = kappa([before.compared[i] for i in common], [predictions[i] for i in common])
            snapshot.compared = {image: predictions[image] for image in fixed if image in predictions}
            snapshot.n_compared = snapshot.n_labels
        return event

    def note(self, event: dict[str, Any]) -> None:
        """Record an event that nothing waits for; called with the condition held."""
        try:
            self._record(event)
        except LogError:  # the session reports it; the model is available anyway
            return

    def _save(self, model: Any) -> None:
        if hasattr(model, "save"):
            temporary = self._project.model.with_suffix(".tmp")
            model.save(temporary)
            os.replace(temporary, self._project.model)

    def _swap(self, snapshot: Snapshot) -> None:
        """Put a snapshot in place, in memory and on disk; called with the condition held."""
        self._desk.keep_out(snapshot)
        try:
            snapshot.save(self._project.snapshot)
        except OSError as error:
            self.failure = f"predictions cannot be stored: {error.strerror or error}"
        snapshot.follow(self._state.renames_since(snapshot.n_events))
        self._desk.snapshot = snapshot
        self._swapped()
        self._changed.notify_all()
