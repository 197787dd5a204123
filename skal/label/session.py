"""LabelSession: a person labels a folder of images while models are trained on the labels so far."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skal._validation import check_count
from skal.label.actions import Actions
from skal.label.asked import Asked
from skal.label.asking import Desk
from skal.label.audit import RESERVED
from skal.label.background import Worker
from skal.label.catalogue import Catalogue
from skal.label.folder import is_inside, list_images
from skal.label.imports import Imports
from skal.label.log import Event, EventLog, now
from skal.label.modelling import Modelling
from skal.label.names import check_class_name
from skal.label.opening import find_images, settle
from skal.label.predictor import Predictor, calibration
from skal.label.project import Project, find_settings
from skal.label.questions import Questions
from skal.label.reading import Reading
from skal.label.report import Audit, Status, report
from skal.label.snapshot import Snapshot
from skal.label.state import State
from skal.label.stopping import StopTest
from skal.label.tables import labels_table

if TYPE_CHECKING:
    from typing import Self

    import pandas as pd

#: Seconds spent on reading images when a session opens, so that the first question is available immediately.
_FIRST_READING = 1.0


class LabelSession(Questions, Actions):
    """Label images: one question at a time, each answer saved to disk before it counts, models trained in background.

    Some images are reserved from the start, by a keyed hash of their content. Nothing is trained on them. The share on
    which model and person agree is the accuracy. By default, one answer in five is about a reserved image.

    Parameters
    ----------
    folder_or_paths : path or sequence of paths
        A folder, searched recursively, or image files. May be empty if only :meth:`ask` is used.
    project : path
        Folder for the labels and all other stored files, created if it does not exist. It must not be inside the folder
        of the images.
    classes : sequence of str, default=()
        Initial classes. Others may be added at any time.
    estimator : classifier of image paths or None, default=None
        Cloned for every fit. None uses the network that the project was created with on the command line, or
        EfficientNet-Lite0, in a :class:`skal.FrozenPrefixClassifier` that is not fine-tuned (``max_epochs=0``), because
        models must be trained quickly.
    query : strategy or None, default=None
        Called as ``query(learner, paths, n_instances=n)``. None uses :func:`skal.query.uherding_sampling`.
    batch_size : int, default=10
        Number of answers after which the next model is trained.
    audit : float or None, default=None
        Share of the questions that are about reserved images. None uses the project's last setting, or 0.2 for a new
        project. A project that is created with 0 reserves none.
    target : float or None, default=None
        Target accuracy, for advice on when to stop. It cannot be changed after the first audit answer.
    random_state : int or None, default=0
        Draws which images are reserved and the order of the images, and seeds the default estimator and the strategy.
    follow_links : bool or None, default=None
        Whether links that leave the folder are followed, and their images shown. None uses the project's last setting.
        A new project follows none.
    network : dict or None, default=None
        "backbone", "weights" and "image_size" of the classifier that is used if `estimator` is None, named as in
        ``skal label``. Missing entries have their defaults. None uses the project's last setting. If the network
        changes, the project's model is removed, and one with the new network is trained immediately.

    Attributes
    ----------
    classes : list of str
    labels : DataFrame
    model : classifier or None
        The most recently fitted classifier.

    Raises
    ------
    ValueError
        If an argument is out of range, the folder does not exist, or the project is inside the folder or belongs to
        another one.
    BlockingIOError
        If another process has the project open.

    Examples
    --------
    >>> with LabelSession("photos", "photos.skal", classes=["cat", "dog"]) as session:  # doctest: +SKIP
    ...     while (question := session.next()) is not None:
    ...         session.answer(question.id, input(question.path))
    """

    def __init__(
        self,
        folder_or_paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        project: str | os.PathLike[str],
        *,
        classes: Sequence[str] = (),
        estimator: Any = None,
        query: Callable[..., Any] | None = None,
        batch_size: int = 10,
        audit: float | None = None,
        target: float | None = None,
        random_state: int | None = 0,
        follow_links: bool | None = None,
        network: dict[str, Any] | None = None,
    ):
        check_count("batch_size", batch_size)
        if isinstance(classes, str):
            raise ValueError(f"classes={classes!r} is text; pass a list of names")
        if query is not None and not callable(query):
            raise ValueError(f"query={query!r} is not callable; pass a function, such as skal.query.margin_sampling")
        if estimator is not None and not hasattr(estimator, "fit"):
            raise ValueError(f"estimator={estimator!r} is not a classifier; pass one that is fitted to image paths")
        if audit is not None and not 0 <= audit <= 1:
            raise ValueError(f"audit={audit!r} is not between 0 and 1")
        if target is not None:
            StopTest.plan(target, RESERVED)
        names: list[str] = []
        for name in classes:
            names.append(check_class_name(name, names))
        if follow_links is None:
            stored = find_settings(project)
            follow_links = stored is not None and stored.follow_links
        root, paths, self._left_out = find_images(folder_or_paths, follow_links)
        if root is not None and is_inside(project, root):
            raise ValueError(f"the project {str(project)!r} is inside the folder of images; choose one outside it")
        self.project = Project(project)
        self._log = EventLog(self.project.log)
        try:
            is_audited = any(event.get("why") == "audit" for event in self._log.events)
            folder = None if root is None else str(root)
            if estimator is not None:
                network = {}  # it cannot be built from the command line
            self.settings = settle(
                self.project, folder, len(paths), audit, target, random_state, follow_links, network, is_audited
            )
            self._state = State(self._log.events)
            names = [check_class_name(name, self._state.classes) for name in names]
            self._open(root, paths, names, estimator, query, batch_size, random_state)
        except BaseException:
            self._log.close()
            raise

    def _open(
        self,
        root: Path | None,
        paths: list[str],
        names: list[str],
        estimator: Any,
        query: Any,
        batch_size: int,
        random_state: int | None,
    ) -> None:
        settings, seed = self.settings, 0 if random_state is None else random_state
        self._changed = threading.Condition(threading.RLock())
        key = bytes.fromhex(settings.key)
        self._catalogue = Catalogue(
            root, key, settings.threshold, self.project.cache, self._state, settings.follow_links
        )
        recalled = self._catalogue.recall({*paths, *self.project.asked_files})
        self._imports = Imports(self._catalogue, self._state, self._do)
        listing = None if root is None else self._list
        self._reading = Reading(
            self._catalogue, paths, self._changed, listing, recalled=recalled, taken=self._imports.read
        )
        self._desk = Desk(self._catalogue, self._state, settings.audit, self._reading.replaced)
        self._asked = Asked(self._desk, self.project.asked, self._changed)
        snapshot = Snapshot.load(self.project.snapshot)
        snapshot.version = max([snapshot.version, *(model["version"] for model in self._state.models)])  # may be lost
        self._desk.snapshot = snapshot.follow(self._state.renames_since(snapshot.n_events))
        self._test = None if settings.target is None else StopTest(settings.target, tuple(settings.looks))
        self._modelling = Modelling(
            self._desk,
            self._reading,
            self.project,
            estimator=estimator,
            network=settings.network,
            query=query,
            batch_size=batch_size,
            seed=seed,
            changed=self._changed,
            record=self._record,
            swapped=self._look,
        )
        for name in names:
            if name not in self._state.classes:
                self.add_class(name)
        for path in sorted({*self.project.asked_files} - {one.path for one in recalled}):
            self._asked.take(path)
        self._reading.read_for(_FIRST_READING)
        self._imports.resume()
        trained = self._desk.snapshot.n_labels
        self._modelling.n_changes = abs(len(self._modelling.training()) - trained)
        if self._desk.snapshot.version and not self._desk.snapshot.classes:  # removed or lost
            self._modelling.n_changes = max(self._modelling.n_changes, batch_size)
        failed = self._modelling.failed
        self._workers = [
            Worker("skal reading", self._next_reading, self._changed, failed, self._reading.idle_seconds),
            Worker("skal models", self._modelling.next_task, self._changed, failed),
        ]
        for worker in self._workers:
            worker.start()
        atexit.register(self.close)  # a thread that computes while the interpreter ends would crash the process

    def _list(self) -> list[str]:
        """The images that are in the folder now."""
        assert self._catalogue.root is not None
        paths, self._left_out = list_images(self._catalogue.root, follow_links=self.settings.follow_links)
        return paths

    def _next_reading(self) -> Callable[[], None] | None:
        take = self._imports.next_task(is_last=self._reading.n_left == 0)
        return self._reading.next_task() if take is None else partial(self._held, take)

    def _held(self, task: Callable[[], None]) -> None:
        with self._changed:
            task()

    # ---------------------------------------------------------------- models

    def fit(self) -> Self:
        """Train on all current labels and wait for the result.

        Raises
        ------
        ValueError
            If there are labels of fewer than two classes, or training failed.
        """
        with self._changed:
            if len({label for _, label in self._modelling.training()}) < 2:
                raise ValueError("training requires labels of at least two classes on images that are not reserved")
            self._modelling.wanted += 1
            ticket = self._modelling.wanted
            self._modelling.failure = None
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._modelling.fitted >= ticket)
            if self._modelling.failure is not None:
                raise ValueError(f"training failed: {self._modelling.failure}")
        return self

    @property
    def model(self) -> Any:
        """The classifier most recently fitted in this session, or None."""
        return self._modelling.model

    def predict(self, paths: Sequence[str | os.PathLike[str]]) -> pd.DataFrame:
        """Predictions of the current model, which is trained first if there is none.

        Returns
        -------
        predictions : DataFrame
            Columns path, label, your_label, confidence, probability, and one per class, as written by ``skal predict``.
            `your_label` is empty if an image has no label. The confidence is the model's own. Probabilities are
            calibrated on the audit answers once there are 30. Classes have their current names.
        """
        if self.model is None:
            self.fit()
        with self._changed:
            snapshot = self._desk.snapshot
            renames = self._state.renames_since(snapshot.n_events)
            predictor = Predictor(self.model, renames, calibration(self._state, snapshot)[0], self._state.labels())
        return predictor.table([os.fspath(path) for path in paths])

    def status(self) -> Status:
        """The status of the session."""
        with self._changed:
            doing = self._modelling.doing
            if not self._reading.is_done:
                doing = f"Reading the folder, {self._reading.n_left} files left. {doing}".rstrip()
            found = report(
                self._state,
                self._catalogue,
                self._desk.snapshot,
                self._test,
                self.settings.audit,
                self._reading.is_done,
                n_training=len(self._modelling.training()),
                background=doing,
                progress=self._modelling.progress,
                failure=self._log.failure or self._modelling.failure,
                set_aside=list(self._log.set_aside),
            )
            found.leave_out(self._left_out)
            return found

    @property
    def labels(self) -> pd.DataFrame:
        """All decisions: one row per image, with columns path, label, decision, why, image, tab, seconds, time.

        The decision is "label", "unsure" or "conflict". The label is empty except for the first.
        """
        with self._changed:
            return labels_table(self._state, self._catalogue)

    # ------------------------------------------------------------------ files

    def file(self, image: str) -> str | None:
        """The file of an image, by its id; None if there is no such image."""
        with self._changed:
            item = self._catalogue.items.get(image)
            return None if item is None else self._catalogue.file(item.path)

    def set_aside(self, image: str, reason: str) -> None:
        """Exclude an image whose file cannot be shown. If the file is now a different image, that one is added."""
        with self._changed:
            item = self._catalogue.items.get(image)
            if item is not None:
                self._reading.drop(item.path, image, reason)

    @property
    def is_writable(self) -> bool:
        """Whether answers can be recorded. False after a failed write, until :meth:`reopen_log`."""
        return self._log.failure is None

    # ----------------------------------------------------------------- inside

    def _acted(self, event: Event) -> None:
        if event.get("why") == "audit":
            self._look()

    def _look(self) -> None:
        """Test the target if a look is due."""
        audit = Audit(self._state, self._catalogue, self._desk.snapshot)
        found = None if self._test is None else audit.look(self._test, self._state.n_looks, self._reading.is_done)
        if found is not None:
            event = {"id": f"look:{found['place']}", "kind": "look", "time": now(), **found}
            self._modelling.note(event | {"model": self._desk.snapshot.version})

    def reopen_log(self) -> None:
        """Read the log again after a failed write. The content on disk is authoritative."""
        with self._changed:
            self._log.reopen()
            self._state.reset(self._log.events)
            self._desk.rewind()
            self._imports.resume()
            self._changed.notify_all()

    def close(self) -> None:
        """Stop the background work and release the project. This also happens when the process ends."""
        atexit.unregister(self.close)
        self._modelling.is_stopping = True
        for worker in self._workers:
            worker.stop()
        self._catalogue.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
