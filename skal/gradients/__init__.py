"""Products of per-sample gradients, computed without forming the gradients."""

from skal.gradients.change import output_change

__all__ = ["output_change"]
