"""Collection of row blocks in one tensor."""

from __future__ import annotations

import torch


class Gathered:
    """Rows (n, ...) in one tensor, which is allocated with the first block.

    Collecting blocks and concatenating them at the end would take twice the memory.

    Parameters
    ----------
    n : int
        Total number of rows.

    Examples
    --------
    >>> gathered = Gathered(3)
    >>> gathered.add(torch.tensor([[1.0], [2.0]]))
    >>> gathered.add(torch.tensor([[3.0]]))
    >>> gathered.rows.flatten()
    tensor([1., 2., 3.])
    """

    rows: torch.Tensor

    def __init__(self, n: int):
        self._n, self._done = n, 0

    def add(self, block: torch.Tensor) -> None:
        """Append a block."""
        if not self._done:
            self.rows = block.new_empty((self._n, *block.shape[1:]), device="cpu")
        self.rows[self._done : self._done + len(block)] = block
        self._done += len(block)
