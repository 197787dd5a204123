"""Activations of the frozen prefix, computed once per image."""

from skal.features.activations import frozen_activations
from skal.features.cache import CACHE
from skal.features.folder import FolderCache
from skal.features.memory import ActivationCache

__all__ = ["CACHE", "ActivationCache", "FolderCache", "frozen_activations"]
