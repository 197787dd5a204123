"""A project on disk: inspected, exported and used without opening it, even while a session has it open."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skal.label import fitting
from skal.label.catalogue import Catalogue
from skal.label.folder import is_inside, list_images
from skal.label.log import read_events
from skal.label.names import check_class_name
from skal.label.predictor import Predictor, calibration
from skal.label.project import Project
from skal.label.report import Status, n_newer, report
from skal.label.snapshot import Snapshot
from skal.label.state import State, path_of
from skal.label.stopping import StopTest
from skal.label.tables import to_label_studio, write_rows

if TYPE_CHECKING:
    from skal import FrozenPrefixClassifier

#: Why labels are not for training: their images, or near-duplicates of them, measure the accuracy.
_HELD = ("audit", "near_audit")
FORMATS = ("csv", "imagefolder", "labelstudio", "model", "onnx")


class StoredProject:
    """The contents of a project's folder.

    Parameters
    ----------
    path : path

    Raises
    ------
    ValueError
        If there is no project.
    """

    def __init__(self, path: str | os.PathLike[str]):
        if not (Path(path) / "project.json").is_file():
            raise ValueError(_nothing(path))
        self.project = Project(path)
        settings = self.project.load()
        assert settings is not None
        self.settings = settings
        self.state = State(read_events(self.project.log))
        root = None if settings.folder is None else Path(settings.folder)
        self.catalogue = Catalogue(root, bytes.fromhex(settings.key), settings.threshold, self.project.cache)
        self.catalogue.recall()
        self.catalogue.close()
        snapshot = Snapshot.load(self.project.snapshot)
        self.renames = self.state.renames_since(snapshot.n_events)
        self.snapshot = snapshot.follow(self.renames)

    def status(self) -> Status:
        test = None
        if self.settings.target is not None:
            test = StopTest(self.settings.target, tuple(self.settings.looks))
        rows = [why for _, _, _, why in self.rows() if why not in _HELD]
        root, links = self.catalogue.root, self.settings.follow_links
        paths, left_out = ([], []) if root is None or not root.is_dir() else list_images(root, follow_links=links)
        is_whole = {*paths} <= {*self.catalogue.contents(), *self.catalogue.unreadable}
        found = report(
            self.state, self.catalogue, self.snapshot, test, self.settings.audit, is_whole, n_training=len(rows)
        )
        found.leave_out(left_out)
        return found

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Image, path, label and reason for asking, for every image that has a single label."""
        for image, decision in self.state.decisions().items():
            if decision.label is not None:
                item = self.catalogue.items.get(image)
                path = path_of(decision.event, image) if item is None else item.path
                why = str(decision.event.get("why", decision.event["kind"]))
                if image in self.state.audited:
                    why = "audit"
                elif item is not None and item.is_shadow:
                    why = "near_audit"
                yield image, path, decision.label, why

    def export(self, form: str, target: str | os.PathLike[str]) -> int:
        """Write labels or the model for other programs.

        Parameters
        ----------
        form : {"csv", "imagefolder", "labelstudio", "model", "onnx"}
        target : path
            A file for "csv" and "labelstudio", otherwise a folder. It must be new or empty.

        Returns
        -------
        n : int
            Number of labels written; for "model" and "onnx" the number the model was trained on. The format
            "imagefolder" leaves out images whose files no longer exist.

        Raises
        ------
        ValueError
            If the format is unknown, the file or folder is not empty, or there is no model yet.
        """
        self.check_export(form, target)
        rows = list(self.rows())
        if form == "csv":
            with open(target, "w", newline="", encoding="utf-8") as file:
                write_rows(file, [("path", "label", "why", "image"), *((p, name, why, i) for i, p, name, why in rows)])
        elif form == "labelstudio":
            tasks = to_label_studio((self.catalogue.file(path), label) for _, path, label, _ in rows)
            Path(target).write_text(json.dumps(tasks, indent=1), encoding="utf-8")
        else:
            return self._to_folders(rows, Path(target)) if form == "imagefolder" else self._model_to(Path(target), form)
        return len(rows)

    def check_export(self, form: str, target: str | os.PathLike[str]) -> None:
        """Raise the errors of :meth:`export`, before any work is done."""
        if form not in FORMATS:
            raise ValueError(f"format={form!r} is not one of {FORMATS}")
        _check_empty(Path(target), "file" if form in ("csv", "labelstudio") else "folder")
        if form in ("model", "onnx"):
            self._check_model()
        if form == "onnx":
            from skal.label.onnx_file import check_exporter

            check_exporter()

    def _to_folders(self, rows: list[tuple[str, str, str, str]], folder: Path) -> int:
        """One folder per class, with audit images and those like them separate, so that nobody trains on them."""
        n = 0
        for name, label in itertools.product(("train", "audit"), dict.fromkeys(label for _, _, label, _ in rows)):
            (folder / name / check_class_name(label)).mkdir(parents=True, exist_ok=True)  # the same classes in both
        for image, path, label, why in rows:
            part = folder / (why if why in _HELD else "train") / check_class_name(label)
            file = self.catalogue.file(path)
            name = os.fsencode(os.path.basename(path))[-200:].decode(errors="ignore")  # at most 255 bytes are allowed
            copy = part / f"{image[:12]}-{name}"
            if not is_inside(copy, folder):
                raise ValueError(f"class {label!r} would be written outside the folder {str(folder)!r}")
            if os.path.isfile(file):
                part.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
                n += 1
        return n

    def _model_to(self, folder: Path, form: str) -> int:
        """Write the model with a description, in skal's format or as ONNX."""
        temperature, n_calibration = calibration(self.state, self.snapshot)
        predictor = Predictor(self._load_model(), self.renames, temperature)
        folder.mkdir(parents=True, exist_ok=True)
        if form == "onnx":
            from skal.label.onnx_file import write_onnx

            further = write_onnx(predictor, folder / "model.onnx")
        else:
            transform = predictor.model.backbone_.inputs.transform
            further = {"network": fitting.resolved(self.settings.network), "renames": self.renames}
            further |= {"resize": transform.resize, "image_size": transform.crop}
            shutil.copyfile(self.project.model, folder / "model.safetensors")
        status = self.status()
        described = {
            "classes": self.snapshot.classes,
            **further,
            "temperature": temperature,
            "n_calibration": n_calibration,
            "n_labels": self.snapshot.n_labels,
            "accuracy": status.accuracy,
            "interval": status.interval,
            "n_audit": status.n_audit,
        }
        (folder / "model.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        return self.snapshot.n_labels

    def predictor(self) -> Predictor:
        """The model with its calibration.

        Raises
        ------
        ValueError
            If there is none, or it belongs to an estimator that a program provided.
        """
        temperature = calibration(self.state, self.snapshot)[0]
        return Predictor(self._load_model(), self.renames, temperature, self.state.labels(), self.n_newer)

    @property
    def n_newer(self) -> int:
        """Number of answers that the model was not trained on."""
        return n_newer(self.state, self.catalogue, self.snapshot)

    def _check_model(self) -> None:
        if self.project.model.is_file() and self.snapshot.classes:
            return
        first = "label images of at least two classes first"
        if self.snapshot.version:  # the previous one was of another network
            first = f"run skal label to train one with {fitting.name_of(self.settings.network)}"
        raise ValueError(f"{str(self.project.path)!r} has no model yet: {first}")

    def _load_model(self) -> FrozenPrefixClassifier:
        self._check_model()
        return _load(self.settings.network, self.project.model)


def load_predictor(path: str | os.PathLike[str]) -> Predictor:
    """The model of a project, or of a folder that was exported as "model".

    Raises
    ------
    ValueError
        If there is none, its description is damaged, or it belongs to an estimator that a program provided.
    """
    folder = Path(path)
    if (folder / "project.json").is_file():
        return StoredProject(folder).predictor()
    if not (folder / "model.safetensors").is_file():
        raise ValueError(_nothing(path, "neither a labelling project nor a model"))
    try:
        described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        network, temperature = dict(described["network"]), described["temperature"]
        renames = [(str(label), str(to)) for label, to in described["renames"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(folder / 'model.json')!r} does not describe a model: {error}") from error
    return Predictor(_load(network, folder / "model.safetensors"), renames, temperature)


def _load(network: dict[str, Any], file: Path) -> FrozenPrefixClassifier:
    """The model in a file. Raises an error that names the network if it does not fit."""
    try:
        return fitting.build_estimator(network, cache=False).load(file)
    except ValueError as error:
        raise ValueError(f"{str(file)!r} cannot be used with {fitting.name_of(network)}: {error}") from error


def _check_empty(target: Path, kind: str) -> None:
    """Raise a ValueError if an export would overwrite something or mix with other files."""
    if any(target.iterdir()) if target.is_dir() else target.is_file() and target.stat().st_size > 0:
        raise ValueError(f"{str(target)!r} is not empty; choose a new or empty {kind}")


def _nothing(path: str | os.PathLike[str], kind: str = "not a labelling project") -> str:
    """Why a path cannot be used, with the project of a folder of images if that is what was given."""
    problem = f"{str(path)!r} is {kind}" if os.path.exists(path) else f"{str(path)!r} does not exist"
    beside = Path(f"{Path(path)}.skal")
    return f"{problem}; did you mean {str(beside)!r}?" if (beside / "project.json").is_file() else problem
