"""Patches that make modAL work with current scikit-learn.

modAL passes ``force_all_finite`` to :func:`sklearn.utils.check_X_y`. scikit-learn 1.6 renamed that keyword to
``ensure_all_finite`` and 1.8 dropped the old name, so every ``fit`` and ``teach`` raises a TypeError. The keyword is
translated. A learner does not store its parameter ``bootstrap_init``, so ``repr``, ``get_params`` and ``clone`` fail.
A default is declared for it, and a clone is a learner without labels. Nothing else in modAL is changed, and
``modAL.models.ActiveLearner`` remains the same class.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import modAL.models.base
import modAL.models.learners
from sklearn.base import clone
from sklearn.utils import check_X_y


@functools.wraps(check_X_y)
def _check_X_y(*args: Any, force_all_finite: bool = True, **kwargs: Any) -> Any:
    return check_X_y(*args, ensure_all_finite=force_all_finite, **kwargs)


def _untaught(learner: Any) -> Any:
    """A clone: a learner with the same estimator and strategy, but without labels."""
    return type(learner)(clone(learner.estimator), learner.query_strategy, on_transformed=learner.on_transformed)


def repair_modal() -> None:
    """Translate the keyword that modAL passes if scikit-learn has renamed it, and make learners clonable."""
    modAL.models.base.BaseLearner.bootstrap_init = False
    modAL.models.base.BaseLearner.__sklearn_clone__ = _untaught
    if "ensure_all_finite" in inspect.signature(check_X_y).parameters:
        for module in (modAL.models.base, modAL.models.learners):
            if hasattr(module, "check_X_y"):  # modAL 0.4.1 checks in the first module, 0.4.2 in the second
                module.check_X_y = _check_X_y
