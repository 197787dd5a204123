"""Query strategies with modAL's signature: ``strategy(learner, X_pool, n_instances=1, **options)`` returns indices.

Each strategy is a module of this package that registers a function; see CONTRIBUTING.md.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from skal._compat import repair_modal
from skal.query._context import Context
from skal.query._pool import score_pool
from skal.query._query import Query
from skal.query._registry import STRATEGIES, Strategy, strategy

repair_modal()
for _module in sorted(module.name for module in iter_modules(__path__)):
    if not _module.startswith("_"):
        import_module(f"{__name__}.{_module}")
for _name in sorted(STRATEGIES):
    STRATEGIES[_name] = STRATEGIES.pop(_name)  # alphabetical, whatever the import order

_functions = {known.function.__name__: known.function for known in STRATEGIES.values()}
globals().update(_functions)

__all__ = ["STRATEGIES", "Context", "Query", "Strategy", "score_pool", "strategy", *_functions]

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
