"""Query: a strategy with keywords that scikit-learn can inspect, search and pickle."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from sklearn.base import BaseEstimator

_FROM_THE_LOOP = ("learner", "classifier", "X_pool", "X", "n_instances")


class Query(BaseEstimator):
    """A query strategy and its keywords: like ``functools.partial``, but ``GridSearchCV`` can set the keywords.

    Parameters
    ----------
    strategy : callable
        ``strategy(learner, X_pool, n_instances=1, **keywords)``, from skal, from modAL, or your own.
    **keywords
        Keywords of the strategy.

    Raises
    ------
    ValueError
        If the strategy is not callable or has no such keyword. The message lists the keywords it has.

    Examples
    --------
    >>> from skal import adma_sampling
    >>> query = Query(adma_sampling, lam=0.1)
    >>> query.set_params(lam=0.5, alpha="predict").keywords
    {'lam': 0.5, 'alpha': 'predict'}
    >>> query.set_params(lambda_=1)
    Traceback (most recent call last):
        ...
    ValueError: adma_sampling does not accept the keyword 'lambda_'; it accepts ['lam', 't', 'alpha', ...]
    """

    def __init__(self, strategy: Callable[..., Any], **keywords: Any):
        self.strategy = strategy
        self.keywords = keywords
        self._check()

    @classmethod
    def of(cls, strategy: Callable[..., Any]) -> Query:
        """Wrap a strategy; a query is returned unchanged."""
        return strategy if isinstance(strategy, Query) else cls(strategy)

    def __call__(self, learner: Any, X_pool: Any, n_instances: int = 1, **further: Any) -> Any:
        """Call the strategy; keywords set here take precedence over `further` ones."""
        return self.strategy(learner, X_pool, n_instances, **(further | self.keywords))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The strategy and the keywords that were set."""
        return {"strategy": self.strategy, **self.keywords}

    def set_params(self, **params: Any) -> Query:
        """Set keywords, or replace the strategy. A new strategy must have all keywords that are set.

        To search over strategies with different keywords, put whole queries in the grid:
        ``{"query": [Query(...), ...]}``.
        """
        params = dict(params)
        changed = Query(params.pop("strategy", self.strategy), **(self.keywords | params))
        self.strategy, self.keywords = changed.strategy, changed.keywords
        return self

    @property
    def allowed(self) -> list[str] | None:
        """Keywords of the strategy; None if it accepts any."""
        parameters = inspect.signature(self.strategy).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return None
        named = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
        return [name for name in named if name not in _FROM_THE_LOOP]

    def _check(self) -> None:
        if not callable(self.strategy):
            raise ValueError(
                f"strategy={self.strategy!r} is not callable; pass a function, such as skal.query.uherding_sampling"
            )
        allowed = self.allowed
        called = getattr(self.strategy, "__name__", repr(self.strategy))
        for name in self.keywords:
            if name in _FROM_THE_LOOP:
                raise ValueError(f"the keyword {name!r} of {called} is set by each call; do not set it here")
            if allowed is not None and name not in allowed:
                raise ValueError(f"{called} does not accept the keyword {name!r}; it accepts {allowed}")

    def takes(self, keyword: str) -> bool:
        """Whether the strategy has this keyword and it is not yet set, here or by a ``functools.partial``."""
        already = {**getattr(self.strategy, "keywords", {}), **self.keywords}
        return keyword not in already and keyword in inspect.signature(self.strategy).parameters
