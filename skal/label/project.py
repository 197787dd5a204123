"""The folder of a labelling project: its settings and the paths of its files."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from skal.label.log import sync_folder

FORMAT = "skal.label 1"
#: Files that a project has before its settings, as when the disk was full at the first start.
_BEFORE_SETTINGS = ("labels.lock", "labels.jsonl", "project.tmp")


@dataclass
class Settings:
    """Settings that are fixed when a project is created.

    Parameters
    ----------
    folder : str or None
        Folder of the photographs; None for a list of paths.
    key : str
        Key of the keyed order, in hexadecimal digits.
    threshold : int
        Threshold of the reserve.
    n_listed : int
        Number of images listed when the project was created.
    audit : float
    target : float or None
    looks : list of int
    network : dict
        How the command line built the estimator: backbone, weights and image_size. Empty if the caller provides one.
    follow_links : bool
        Whether links that leave the folder are followed.
    """

    folder: str | None
    key: str
    threshold: int
    n_listed: int
    audit: float
    target: float | None = None
    looks: list[int] = field(default_factory=list)
    network: dict[str, Any] = field(default_factory=dict)
    follow_links: bool = False


class Project:
    """The folder of a project, readable only by its owner.

    Parameters
    ----------
    path : path
        Created if it does not exist.

    Raises
    ------
    ValueError
        If it is a file, or a folder that contains something else.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(os.path.abspath(path))
        if self.path.exists():
            if not self.path.is_dir():
                raise ValueError(f"the project {str(self.path)!r} is a file; it must be a folder")
            left = [entry for entry in os.listdir(self.path) if entry not in _BEFORE_SETTINGS]
            if left and not self.settings_file.exists():
                raise ValueError(f"{str(self.path)!r} is not a labelling project, but contains {sorted(left)[0]!r}")
        is_new = not self.path.exists()
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        if is_new:
            sync_folder(self.path.parent)

    @property
    def settings_file(self) -> Path:
        return self.path / "project.json"

    @property
    def log(self) -> Path:
        return self.path / "labels.jsonl"

    @property
    def cache(self) -> Path:
        """Cache of what was read from the images."""
        return self.path / "images.jsonl"

    @property
    def snapshot(self) -> Path:
        return self.path / "predictions.npz"

    @property
    def activations(self) -> Path:
        return self.path / "activations"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def asked(self) -> Path:
        """Folder of the images that were given as arrays."""
        return self.path / "asked"

    @property
    def asked_files(self) -> list[str]:
        """Their files."""
        return sorted(str(path) for path in self.asked.glob("*.png"))

    def load(self) -> Settings | None:
        """The settings; None if the project is new.

        Raises
        ------
        ValueError
            If the file is damaged or of another version.
        """
        if not self.settings_file.exists():
            return None
        try:
            stored = json.loads(self.settings_file.read_text(encoding="utf-8"))
            if stored.pop("format") != FORMAT:
                raise ValueError("unknown format")
            return Settings(**stored)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{str(self.settings_file)!r} is not a project file of this version: {error}") from error

    def save(self, settings: Settings) -> None:
        """Write the settings atomically."""
        temporary = self.settings_file.with_suffix(".tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, **asdict(settings)}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.settings_file)
        sync_folder(self.path)


def find_settings(path: str | os.PathLike[str]) -> Settings | None:
    """The settings of a project; None if there is no project. Nothing is created."""
    return Project(path).load() if (Path(path) / "project.json").is_file() else None


def predict_command(path: str | os.PathLike[str]) -> str:
    """The command with which the user predicts new images.

    Examples
    --------
    >>> predict_command("my photos.skal")
    "skal predict 'my photos.skal' NEW/ --output predictions.csv"
    """
    return f"skal predict {shlex.quote(os.fspath(path))} NEW/ --output predictions.csv"


def project_beside(folder: str | os.PathLike[str]) -> Path:
    """Default location of a folder's project: beside the photographs, never among them.

    Examples
    --------
    >>> project_beside("/home/me/photos/").as_posix()
    '/home/me/photos.skal'
    """
    folder = Path(os.path.abspath(folder))
    return folder.with_name(folder.name + ".skal")
