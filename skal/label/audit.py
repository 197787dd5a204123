"""Accuracy of a model, estimated on images that were reserved at random. Pure functions of counts.

Labels chosen by a strategy are a biased sample for measuring accuracy. A keyed hash of the content reserves some images
from the start. Nothing is trained on them, and the share on which model and person agree estimates the agreement on the
folder.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

#: No accuracy is shown below this number of answers.
FEWEST = 30
#: Default share of the questions that are about reserved images.
SHARE = 0.2
#: Number of images reserved in a large folder, and the maximum share of a small one.
RESERVED, LARGEST_SHARE = 400, 1 / 3
#: Confidences above which predictions might be accepted unseen.
CONFIDENCES = (0.5, 0.7, 0.8, 0.9, 0.95)
_RANGE = 2**64


def position(name: bytes, key: bytes) -> int:
    """Place of a name in the keyed order: a hash in [0, 2^64) that cannot be predicted without the key.

    Parameters
    ----------
    name : bytes
        Name of the content of an image, or of its path.
    key : bytes
        At most 64 bytes, drawn once per project.

    Examples
    --------
    >>> position(b"one", b"key") == position(b"one", b"key") != position(b"one", b"other key")
    True
    """
    return int.from_bytes(hashlib.blake2b(name, digest_size=8, key=key).digest(), "big")


def reserve_threshold(n_images: int) -> int:
    """The position below which images are reserved: about 400 of them, or a third of a small folder.

    Parameters
    ----------
    n_images : int
        Number of listed paths when the project is created. The threshold is stored and never changed.

    Examples
    --------
    >>> [round(n * reserve_threshold(n) / 2**64) for n in (0, 30, 1_200, 100_000)]
    [0, 10, 400, 400]
    """
    return int(_RANGE * min(LARGEST_SHARE, RESERVED / max(n_images, 1)))


def is_complete(reserved: Iterable[int], answered: Iterable[int]) -> bool:
    """Whether every reserved image up to the last answered one, in keyed order, is answered.

    Only then are the answered ones a random sample, even after the folder has grown.

    Parameters
    ----------
    reserved, answered : iterable of int
        Positions of all reserved images, and of those answered.

    Examples
    --------
    >>> is_complete([3, 5, 9], [3, 5]), is_complete([3, 4, 5, 9], [3, 5])
    (True, False)
    """
    known = set(answered)
    last = max(known, default=-1)
    return all(place in known for place in reserved if place <= last)


def wilson_interval(n_right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion.

    Parameters
    ----------
    n_right : int
    n : int
        At least 1.
    confidence : float, default=0.95
        Two-sided and pointwise: for a single look, not for a sequence of looks.

    Returns
    -------
    low, high : float

    Raises
    ------
    ValueError
        If the counts are impossible.

    References
    ----------
    .. [1] Wilson. "Probable inference, the law of succession, and statistical inference", JASA 1927.

    Examples
    --------
    >>> low, high = wilson_interval(40, 50)
    >>> round(low, 3), round(high, 3)
    (0.67, 0.888)
    """
    _check_counts(n_right, n)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = n_right / n
    centre = share + z * z / (2 * n)
    half = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    scale = 1 + z * z / n
    low = 0.0 if n_right == 0 else (centre - half) / scale  # otherwise rounding gives 1e-17
    return low, 1.0 if n_right == n else (centre + half) / scale


def lower_bound(n_right: int, n: int, alpha: float) -> float:
    """One-sided exact lower bound of a proportion (Clopper-Pearson), above the truth with probability at most alpha.

    Parameters
    ----------
    n_right, n : int
    alpha : float

    References
    ----------
    .. [1] Clopper, Pearson. "The use of confidence or fiducial limits illustrated in the case of the binomial",
       Biometrika 1934.

    Examples
    --------
    >>> round(lower_bound(100, 100, 0.01), 4) == round(0.01 ** (1 / 100), 4)
    True
    """
    from scipy.special import betaincinv  # imported here, so the first question need not wait for it

    _check_counts(n_right, n)
    return 0.0 if n_right == 0 else float(betaincinv(n_right, n - n_right + 1, alpha))


def _check_counts(n_right: int, n: int) -> None:
    if n < 1 or not 0 <= n_right <= n:
        raise ValueError(f"n_right={n_right} of n={n} is not a share: n must be at least 1 and n_right between 0 and n")


@dataclass(frozen=True)
class Estimate:
    """Agreement of model and person on audit images.

    Parameters
    ----------
    n_right, n_wrong, n_unsure : int
        Number of images on which they agree, on which they disagree, and which the person is unsure about.
    """

    n_right: int
    n_wrong: int
    n_unsure: int = 0

    @property
    def n(self) -> int:
        """Number of images answered."""
        return self.n_right + self.n_wrong + self.n_unsure

    @property
    def is_shown(self) -> bool:
        """Whether there are enough answers to show an accuracy."""
        return self.n_right + self.n_wrong >= FEWEST

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Agreement if the model were wrong, and if it were right, on all images the person is unsure about."""
        return (self.n_right / self.n, (self.n_right + self.n_unsure) / self.n) if self.is_shown else None

    @property
    def accuracy(self) -> float | None:
        """Agreement on the images the person is sure about."""
        return self.n_right / (self.n_right + self.n_wrong) if self.is_shown else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % Wilson interval, from the lower end for the lower bound to the upper end for the upper bound.

        Examples
        --------
        >>> Estimate(29, 0).interval is None
        True
        >>> low, high = Estimate(45, 5, 10).interval
        >>> low == wilson_interval(45, 60)[0], high == wilson_interval(55, 60)[1]
        (True, True)
        """
        if not self.is_shown:
            return None
        return wilson_interval(self.n_right, self.n)[0], wilson_interval(self.n_right + self.n_unsure, self.n)[1]


def estimate(labels: Sequence[str | None], predictions: Sequence[str]) -> Estimate:
    """Count agreement.

    Parameters
    ----------
    labels : sequence of str or None
        Labels from the person; None if unsure.
    predictions : sequence of str

    Examples
    --------
    >>> estimate(["cat", "dog", None], ["cat", "cat", "dog"])
    Estimate(n_right=1, n_wrong=1, n_unsure=1)
    """
    pairs = list(zip(labels, predictions, strict=True))
    n_right = sum(label == predicted for label, predicted in pairs)
    n_unsure = sum(label is None for label, _ in pairs)
    return Estimate(n_right, len(pairs) - n_right - n_unsure, n_unsure)


@dataclass(frozen=True)
class ClassRecall:
    """Recall of the model on the audit images of one class.

    Parameters
    ----------
    label : str
    n, n_right : int
    is_known : bool
        Whether the model was trained on the class. If not, the class occurs only in the audit.
    """

    label: str
    n: int
    n_right: int
    is_known: bool

    @property
    def recall(self) -> float:
        return self.n_right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval."""
        return wilson_interval(self.n_right, self.n)


def class_recalls(labels: Sequence[str | None], predictions: Sequence[str], known: Iterable[str]) -> list[ClassRecall]:
    """Recall of each class among the audit images, in alphabetical order.

    Parameters
    ----------
    labels, predictions
        As in :func:`estimate`.
    known : iterable of str
        Classes of the model.

    Examples
    --------
    >>> recalls = class_recalls(["a", "a", "b", None], ["a", "c", "a", "a"], ["a", "c"])
    >>> [(recall.label, recall.recall, recall.is_known) for recall in recalls]
    [('a', 0.5, True), ('b', 0.0, False)]
    """
    known = set(known)
    right: dict[str, list[bool]] = {}
    for label, predicted in zip(labels, predictions, strict=True):
        if label is not None:
            right.setdefault(label, []).append(label == predicted)
    return [ClassRecall(label, len(right[label]), sum(right[label]), label in known) for label in sorted(right)]


@dataclass(frozen=True)
class Acceptance:
    """Predictions above a confidence, compared with the audit answers.

    Parameters
    ----------
    confidence : float
    n, n_right : int
        Number of audit images with at least this confidence, and number of those on which model and person agree.
    share : float
        Share of all audit images.
    """

    confidence: float
    n: int
    n_right: int
    share: float


def count_above(confidences: Sequence[float], is_right: Sequence[bool], confidence: float) -> Acceptance:
    """The predictions above a confidence, whether or not they are right often enough.

    Parameters
    ----------
    confidences, is_right
        As in :func:`accept_above`.
    confidence : float

    Examples
    --------
    >>> count_above([0.99, 0.97, 0.6, 0.5], [True, False, True, True], 0.95)
    Acceptance(confidence=0.95, n=2, n_right=1, share=0.5)
    """
    above = np.asarray(confidences, dtype=float) >= confidence
    n_right = int(np.asarray(is_right, dtype=bool)[above].sum())
    return Acceptance(confidence, int(above.sum()), n_right, int(above.sum()) / max(len(above), 1))


def fewest_to_accept(target: float, alpha: float = 0.05) -> int:
    """Number of audit answers below which :func:`accept_above` returns None, even if all of them are right.

    Examples
    --------
    >>> fewest_to_accept(0.95)
    90
    >>> accept_above([1.0] * 89, [True] * 89, 0.95) is None, accept_above([1.0] * 90, [True] * 90, 0.95) is None
    (True, False)
    """
    return math.ceil(math.log(alpha / len(CONFIDENCES)) / math.log(target))


def accept_above(
    confidences: Sequence[float], is_right: Sequence[bool], target: float, alpha: float = 0.05
) -> Acceptance | None:
    """The lowest confidence above which the audit shows predictions to be right at least as often as the target.

    Each of five confidences is tested with an exact lower bound at a fifth of alpha, so the probability of returning
    one that is too low is at most alpha.

    Parameters
    ----------
    confidences : sequence of float
        Confidence of the model for each audit image.
    is_right : sequence of bool
        Unsure counts as wrong.
    target : float
    alpha : float, default=0.05

    Returns
    -------
    acceptance : Acceptance or None
        None if the audit shows no such confidence.

    Examples
    --------
    >>> accept_above([0.99] * 200 + [0.6] * 50, [True] * 200 + [False] * 50, 0.95)
    Acceptance(confidence=0.7, n=200, n_right=200, share=0.8)
    """
    for confidence in CONFIDENCES:
        found = count_above(confidences, is_right, confidence)
        if found.n and lower_bound(found.n_right, found.n, alpha / len(CONFIDENCES)) >= target:
            return found
    return None
