"""The strategies by name. A decorator registers each one and declares its requirements and parameters."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

from sklearn.utils._param_validation import StrOptions, validate_parameter_constraints

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Strategy(NamedTuple):
    """Requirements and cost of a strategy.

    Parameters
    ----------
    function : callable
        ``function(learner, X_pool, n_instances=1, **keywords)``.
    needs_labels : bool
        Whether its rule uses a classifier, which needs labels of two classes. Every strategy can start without labels.
    without_labels : str
        What the first query is based on, when nothing is labelled.
    needs_gradients : bool
        Whether the classifier must provide gradients (:meth:`skal.FrozenPrefixClassifier.output_change`).
    needs_source : bool
        Whether it needs a :class:`skal.SourceProfile` or source images.
    batch : str
        How the images of a batch are chosen: "together" (taking each other into account), "one by one", or "either",
        as set by the keyword ``batch``.
    cost : str
        What the time of a query grows with, besides one pass of the pool through the network.
    """

    function: Callable[..., Any]
    needs_labels: bool
    without_labels: str
    needs_gradients: bool
    needs_source: bool
    batch: str
    cost: str


#: Every query strategy by name, in alphabetical order.
STRATEGIES: dict[str, Strategy] = {}

_COMMON = {
    "batch": [StrOptions({"top", "herding"})],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}


def strategy(
    parameters: dict[str, Any] | None = None,
    *,
    cost: str,
    without_labels: str = "its rule",
    needs_labels: bool = False,
    needs_gradients: bool = False,
    needs_source: bool = False,
    batch: str = "together",
) -> Callable[[_Function], _Function]:
    """Register a function as a strategy under its name without ``_sampling``, and validate its keywords at every call.

    Parameters
    ----------
    parameters : dict, default=None
        Constraints of each keyword, in the format of ``_parameter_constraints`` in scikit-learn's estimators. Those of
        ``batch``, ``random_state`` and ``verbose`` are predefined.
    cost, without_labels, needs_labels, needs_gradients, needs_source
        As in :class:`Strategy`.
    batch : {"together", "one by one"}, default="together"
        As in :class:`Strategy`. A strategy that has the keyword ``batch`` is registered as "either".

    Returns
    -------
    decorator : callable

    Raises
    ------
    TypeError
        If the function is not named ``..._sampling``, or its keywords do not match the constraints.
    """

    def register(function: _Function) -> _Function:
        name = function.__name__.removesuffix("_sampling")
        if name == function.__name__:
            raise TypeError(f"the name of a strategy must end in _sampling, but got {name!r}")
        signature = inspect.signature(function)
        keywords = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
        allowed = _COMMON | (parameters or {})
        if unlike := set(keywords) - set(allowed) | set(parameters or {}) - set(keywords):
            raise TypeError(f"{function.__name__}: keywords and their constraints differ in {sorted(unlike)}")
        constraints = {keyword: allowed[keyword] for keyword in keywords}

        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            # Like scikit-learn's validate_params, which would also rewrite the errors of estimators fitted inside.
            try:
                given = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{function.__name__}() {error}") from None
            given.apply_defaults()
            values = {keyword: given.arguments[keyword] for keyword in keywords}
            validate_parameter_constraints(constraints, values, caller_name=function.__name__)
            return function(*args, **kwargs)

        checked._skl_parameter_constraints = constraints  # type: ignore[attr-defined]
        how = "either" if "batch" in keywords else batch
        STRATEGIES[name] = Strategy(checked, needs_labels, without_labels, needs_gradients, needs_source, how, cost)
        return cast(_Function, checked)

    return register
