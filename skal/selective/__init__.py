"""Selective joint fine-tuning: select source images whose low-level appearance is similar to the target's."""

from skal.selective.descriptors import FilterBankDescriptor
from skal.selective.neighbors import SymmetricKLNeighbors

__all__ = ["FilterBankDescriptor", "SymmetricKLNeighbors"]
