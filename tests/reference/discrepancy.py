"""Alternative keyword values of the queries by discrepancy. Their plain versions are in tests/numerics."""

from tests.reference import Given

_SOURCE = {"X_source": [Given("X_source")], "profile": [Given("profile")], "bandwidths": [[0.5, 2.0]]}
ALTERNATIVES = {"mmd": _SOURCE, "discrepancy_coreset": _SOURCE | {"balance": [0.0, 1.0]}}
