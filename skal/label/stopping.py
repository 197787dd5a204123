"""When to stop: a test of the target at looks fixed in advance, and a plateau of successive models."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skal.label.audit import lower_bound

#: Numbers of audit answers at which the target may be tested, in addition to the whole reserve.
LOOKS = (50, 100, 200, 400)
ALPHA = 0.05
#: Mean agreement of successive models above which more labels change little.
PLATEAU = 0.99
_KAPPAS = 3


@dataclass(frozen=True)
class StopTest:
    """A test of a target accuracy at a few looks. The probability of a false "reached" is at most 5 %.

    An interval checked after every answer misses the truth in a third of sessions, and every fit scores all audit
    images again. Therefore the looks are fixed before the first answer, and each gets its share of the error.

    Parameters
    ----------
    target : float
    looks : tuple of int
        Numbers of audit answers. The last is the whole reserve, whatever its actual size.

    Examples
    --------
    >>> test = StopTest.plan(0.95, 400)
    >>> test.looks
    (100, 200, 400)
    >>> test.is_reached(100, 100), test.is_reached(98, 100)
    (True, False)
    """

    target: float
    looks: tuple[int, ...]

    @classmethod
    def plan(cls, target: float, n_reserved: int) -> StopTest:
        """Fix the looks: those within the reserve and the whole reserve, without those that no audit could pass.

        Parameters
        ----------
        target : float
            Between 0 and 1, exclusive.
        n_reserved : int
            Number of images that are reserved, or expected to be.

        Raises
        ------
        ValueError
            If the target is out of range.
        """
        if not 0 < target < 1:
            raise ValueError(f"target={target!r} is not between 0 and 1")
        looks = [*(n for n in LOOKS if n < n_reserved), n_reserved] if n_reserved > 0 else []
        while looks and lower_bound(looks[0], looks[0], ALPHA / len(looks)) < target:
            looks.pop(0)
        return cls(target, tuple(looks))

    def is_reached(self, n_right: int, n: int) -> bool:
        """Whether a look passes.

        Parameters
        ----------
        n_right : int
            Answers on which the model agrees. Unsure answers and open conflicts do not count as such.
        n : int
            Answers at the look.
        """
        return lower_bound(n_right, n, ALPHA / max(len(self.looks), 1)) >= self.target

    def needed(self, n: int) -> int | None:
        """The minimum number of right answers for a look to pass; None if even an audit without errors does not.

        Parameters
        ----------
        n : int
            Answers at the look.

        Examples
        --------
        >>> test = StopTest.plan(0.95, 400)
        >>> [test.needed(n) for n in (50, *test.looks)]
        [None, 100, 197, 390]
        """
        fewest = bisect_left(range(n + 1), True, key=lambda n_right: self.is_reached(n_right, n))
        return fewest if fewest <= n else None

    def due(self, n_answered: int, n_reserved: int | None, done: int) -> int | None:
        """The look that is due, as its index among all looks, or None.

        Parameters
        ----------
        n_answered : int
            Number of audit answers.
        n_reserved : int or None
            Size of the whole reserve; None while it is not known.
        done : int
            Number of looks already taken. If several are due, the last one is taken and the earlier ones are over.
        """
        sizes = self.looks[:-1]
        reached = sum(n_answered >= n for n in sizes)
        if self.looks and n_reserved is not None and 0 < n_reserved <= n_answered:
            reached = len(self.looks)
        return reached - 1 if reached > done else None


def highest_target(n_reserved: int) -> float:
    """The highest accuracy, in whole percent, that an audit without errors can show.

    Parameters
    ----------
    n_reserved : int
        Number of reserved images.

    Examples
    --------
    >>> [highest_target(n) for n in (0, 29, 50, 59, 400)]
    [0.0, 0.9, 0.94, 0.95, 0.99]
    """
    return 0.0 if n_reserved < 1 else int(100 * lower_bound(n_reserved, n_reserved, ALPHA)) / 100


def kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Cohen's kappa between the predictions of two models on the same images; None if it is undefined.

    Examples
    --------
    >>> kappa(["a", "a", "b", "b"], ["a", "a", "b", "a"])
    0.5
    >>> kappa(["a", "a"], ["a", "a"]) is None
    True
    """
    one, other = np.asarray(first), np.asarray(second)
    if len(one) == 0:
        return None
    observed = float((one == other).mean())
    expected = float(sum((one == label).mean() * (other == label).mean() for label in np.unique(one)))
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def is_apart(n_labels: int, n_before: int) -> bool:
    """Whether two models differ by enough labels to be compared: 10, or 5 % if that is more.

    Examples
    --------
    >>> is_apart(29, 20), is_apart(30, 20), is_apart(410, 400), is_apart(420, 400)
    (False, True, False, True)
    """
    return n_labels - n_before >= max(10, 0.05 * n_before)


def is_plateau(kappas: Sequence[float | None]) -> bool:
    """Whether more labels change little: the last three kappas average at least 0.99.

    It does not mean that the model is good.

    Parameters
    ----------
    kappas : sequence of float or None
        Kappas of successive models that are :func:`is_apart`, on the same images. With an undefined one there is no
        plateau.

    References
    ----------
    .. [1] Bloodgood, Vijay-Shanker. "A method for stopping active learning based on stabilizing predictions and the
       need for user-adjustable stopping", CoNLL 2009.

    Examples
    --------
    >>> is_plateau([0.5, 0.98, 1.0, 1.0]), is_plateau([1.0, 1.0]), is_plateau([1.0, None, 1.0])
    (True, False, False)
    """
    last = [value for value in kappas[-_KAPPAS:] if value is not None]
    return len(last) == _KAPPAS and sum(last) / _KAPPAS >= PLATEAU - 1e-9  # tolerates rounding of the sum
