"""Selective joint fine-tuning: borrow from a source data set the images whose low-level look is the target's."""

from skal.selective.descriptors import FilterBankDescriptor
from skal.selective.neighbors import SymmetricKLNeighbors

__all__ = ["FilterBankDescriptor", "SymmetricKLNeighbors"]
