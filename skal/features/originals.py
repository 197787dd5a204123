"""The inputs that wrappers read from."""

from __future__ import annotations

from collections.abc import Iterator

from skal.images.inputs import Inputs, JoinedInputs


def originals(inputs: Inputs) -> Iterator[Inputs]:
    """The distinct inputs inside wrappers, such as mirror images and joined rows.

    Parameters
    ----------
    inputs : Inputs
        A wrapper has the attribute ``inputs``.

    Examples
    --------
    >>> import numpy as np
    >>> from skal.features.views import MirroredInputs
    >>> from skal.images.inputs import TensorInputs
    >>> images = TensorInputs(np.zeros((2, 3, 8, 8)))
    >>> [own is images for own in originals(MirroredInputs(JoinedInputs((images, [1]), (images, [0]))))]
    [True]
    """
    if isinstance(inputs, JoinedInputs):
        for part in inputs.parts:
            yield from originals(part)
    elif hasattr(inputs, "inputs"):
        yield from originals(inputs.inputs)
    else:
        yield inputs
