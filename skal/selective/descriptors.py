"""Descriptors of the low-level appearance of images: histograms of their responses to a filter bank."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xxhash
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from tqdm import tqdm

from skal._device import find_device
from skal._validation import check_count
from skal.backbones.backbone import Backbone
from skal.backbones.load import BackboneLike, load_backbone
from skal.images.forms import as_data, is_images
from skal.images.inputs import Inputs, InputSpec
from skal.images.transform import ImageTransform
from skal.selective.filters import BATCH, ConvResponses, GaborResponses, filters_by_layer
from skal.selective.table import BlockTable, NotStoredError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BANKS = ("gabor", "conv")
_INTERVALS = 2000  # number of equal intervals from which bins of equal mass are computed
_SIDE = 128  # side of images for the Gabor bank
_ATTEMPTS = 3  # attempts to fill a table that other processes may replace at the same time


class FilterBankDescriptor(TransformerMixin, BaseEstimator):
    """Histograms of filter bank responses, with bins that contain equal shares of the target's responses.

    Parameters
    ----------
    bank : {"gabor", "conv"}, default="gabor"
        48 Gabor filters (4 scales, 6 orientations, real and imaginary) on the greyscale image, or convolutions of a
        network.
    backbone, weights
        The network of ``bank="conv"``, as in :class:`skal.FrozenPrefixClassifier`. Ge and Yu use AlexNet.
    layers : int or list of str, default=2
        Number of the first convolutions of the network to use, or their names.
    n_bins : int, default=100
        Number of bins per filter.
    activation : bool, default=True
        Whether to include the normalisation and non-linearity that follow a convolution, as in Ge and Yu's paper. Their
        code uses raw responses.
    image_size : int or None, default=None
        Side of the images after resizing and centre cropping. It replaces the sizes of `preprocess`. None uses those,
        or the size of the network, or 128 for the Gabor bank.
    preprocess : ImageTransform or None, default=None
        Image pre-processing. None uses that of the network.
    device : str, default="auto"
        ``"auto"`` uses a GPU if there is one.
    verbose : bool, default=False
        Whether to show a progress bar.

    Attributes
    ----------
    bounds_ : ndarray of shape (n_filters, 2)
        Minimum and maximum response of each filter in the images of `fit`.
    edges_ : ndarray of shape (n_filters, n_bins + 1)
        Bin edges, from the lower to the upper bound.
    weights_ : ndarray of shape (n_filters * n_bins,)
        1 / (filters in the layer) for each column: the weights for :class:`SymmetricKLNeighbors` (w_h of Eq. 1).
    layers_ : list of str
        Layer of each filter.

    References
    ----------
    .. [1] Ge, Yu. "Borrowing treasures from the wealthy: deep transfer learning through selective joint fine-tuning",
       CVPR 2017, section 3.2.
    .. [2] Manjunath, Ma. "Texture features for browsing and retrieval of image data", IEEE TPAMI 18(8), 1996.

    Examples
    --------
    >>> images = np.random.default_rng(0).integers(0, 256, (6, 32, 32), dtype=np.uint8)
    >>> descriptor = FilterBankDescriptor(n_bins=10, image_size=32).fit(images)
    >>> descriptor.transform(images[:2]).shape
    (2, 480)
    """

    def __init__(
        self,
        bank: str = "gabor",
        *,
        backbone: BackboneLike | None = None,
        weights: str | os.PathLike[str] | None = "auto",
        layers: int | Sequence[str] = 2,
        n_bins: int = 100,
        activation: bool = True,
        image_size: int | None = None,
        preprocess: ImageTransform | None = None,
        device: str = "auto",
        verbose: bool = False,
    ):
        self.bank = bank
        self.backbone = backbone
        self.weights = weights
        self.layers = layers
        self.n_bins = n_bins
        self.activation = activation
        self.image_size = image_size
        self.preprocess = preprocess
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> FilterBankDescriptor:
        """Find the bounds of all responses, then the bins, in two passes over the target images.

        Parameters
        ----------
        X : images of length n
            As in :meth:`skal.FrozenPrefixClassifier.fit`. Files are decoded block by block.
        y : ignored

        Returns
        -------
        self : FilterBankDescriptor

        Raises
        ------
        ValueError
            If the bank, its layers or the device are unknown, the backbone is missing, or X does not contain images.
        """
        responses, inputs = self._responses(X)
        low, high = torch.tensor(torch.inf), torch.tensor(-torch.inf)
        for maps in self._blocks(responses, inputs, "bounds"):
            low = torch.minimum(low, torch.cat([values.amin((0, 2, 3)) for values in maps]))
            high = torch.maximum(high, torch.cat([values.amax((0, 2, 3)) for values in maps]))
        self.bounds_ = np.column_stack([low, high]).astype(np.float64)
        low, high = low.double(), torch.where(high > low, high, low + 1).double()  # filters with constant response
        counts = torch.zeros(len(low), _INTERVALS, dtype=torch.float64)
        for maps in self._blocks(responses, inputs, "bins"):
            start = 0
            for values in maps:
                rows = slice(start, start := start + values.shape[1])
                counts[rows] += _fine_counts(values, low[rows], high[rows])
        of_filters = zip(low.tolist(), high.tolist(), counts.numpy(), strict=True)
        self.edges_ = np.stack([_equal_mass(least, most, mass, self.n_bins) for least, most, mass in of_filters])
        self.layers_ = responses.layers
        in_layer = np.repeat(filters_by_layer(responses.layers), filters_by_layer(responses.layers))
        self.weights_ = np.repeat(1 / in_layer, self.n_bins)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Histograms of images.

        Parameters
        ----------
        X : images of length n

        Returns
        -------
        descriptors : ndarray of shape (n, n_filters * n_bins)
            float32. The histogram of each filter sums to 1. Responses outside the bounds count in the outermost bins.
        """
        check_is_fitted(self)
        responses, inputs = self._responses(X)
        return np.concatenate([self._histograms(maps) for maps in self._blocks(responses, inputs, "descriptors")])

    def write(self, X: Any, folder: str | os.PathLike[str]) -> np.ndarray:
        """As :meth:`transform`, but store the result in a folder; an interrupted pass resumes where it stopped.

        Several sets of images, and several processes, may share a folder. Finished blocks have a checksum. A damaged
        block is computed again, with a RuntimeWarning.

        Parameters
        ----------
        X : images of length n
        folder : path
            Created if it does not exist. Each combination of images, filters and bins has its own subfolder, named by
            :meth:`fingerprint`.

        Returns
        -------
        descriptors : memmap of shape (n, n_filters * n_bins)
            float32, read-only. If the disk is full or the folder is not writable, a RuntimeWarning is issued and the
            result is an array in memory.
        """
        check_is_fitted(self)
        responses, inputs = self._responses(X)
        shape = (len(inputs), self.edges_.shape[0] * self.n_bins)
        table = BlockTable(Path(folder).expanduser() / f"descriptors-{self._named(inputs)}", shape, BATCH)
        try:
            for attempt in range(_ATTEMPTS):
                missing = table.missing(warn=attempt == 0)
                if not missing:
                    return table.rows()
                for start in tqdm(missing, desc="descriptors", unit="block", disable=not self.verbose):
                    table.write(start, self._histograms(next(responses(inputs, start))))
            raise NotStoredError(f"{str(folder)!r}: another program keeps modifying it")
        except NotStoredError as error:
            warnings.warn(f"cannot store descriptors in {error}", RuntimeWarning, stacklevel=2)
            return self.transform(X)

    def plot(self, X: Any = None, *, ax: Axes | None = None) -> Figure | Axes:
        """Plot the filters of the bank, or the descriptor of one image.

        Parameters
        ----------
        X : image, as an array of length 1 or a list of one path; default=None
            None plots the filters: the real parts of Gabor filters, or the kernels of the first convolution.
        ax : Axes, default=None
            Axes for the descriptor, which has one row per filter and one column per bin.

        Returns
        -------
        figure or axes
        """
        import matplotlib.pyplot as plt

        if X is not None:
            ax = ax if ax is not None else plt.gca()
            ax.imshow(self.transform(X)[0].reshape(-1, self.n_bins), aspect="auto", cmap="magma")
            ax.set(xlabel="bin of equal mass in the target set", ylabel="filter")
            return ax
        tiles = self._bank().pictures
        columns = 6 if self.bank == "gabor" else 8
        rows = -(-len(tiles) // columns)
        figure, axes = plt.subplots(rows, columns, figsize=(1.2 * columns, 1.2 * rows), squeeze=False)
        for tile_ax in axes.flat:
            tile_ax.axis("off")
        for tile_ax, tile in zip(axes.flat, tiles, strict=False):
            tile_ax.imshow(tile, cmap="gray" if tile.ndim == 2 else None)
        return figure

    def _bank(self) -> GaborResponses | ConvResponses:
        if self.bank not in BANKS:
            raise ValueError(f"bank={self.bank!r} is not one of {BANKS}")
        device = find_device(self.device)
        if self.bank == "gabor":
            return GaborResponses(device)
        if self.backbone is None:
            raise ValueError("bank='conv' needs a backbone, such as 'alexnet'; got None")
        return ConvResponses(self._load_backbone(), self.layers, self.activation, device)

    def _load_backbone(self) -> Backbone:
        assert self.backbone is not None
        return load_backbone(self.backbone, self.weights, image_size=self.image_size, preprocess=self.preprocess)

    def _responses(self, X: Any) -> tuple[GaborResponses | ConvResponses, Inputs]:
        """The bank, and the images as its input."""
        check_count("n_bins", self.n_bins, 2)
        bank, X = self._bank(), as_data(X)
        if not isinstance(X, Inputs) and not is_images(X):
            raise ValueError(f"X has shape {np.shape(X)}, but images must be arrays of 3 or 4 dimensions, or paths")
        if self.bank == "conv":
            return bank, self._load_backbone().inputs.check(X)
        given = self.preprocess or ImageTransform(_SIDE, _SIDE)
        if self.image_size is not None:
            check_count("image_size", self.image_size)
            given = replace(given, resize=self.image_size, crop=self.image_size)
        is_grey = getattr(X, "ndim", 0) == 4 and X.shape[1] == 1 and X.dtype != np.uint8
        channels = 1 if is_grey else 3
        pixels = replace(given, mean=(0.0,) * channels, std=(1.0,) * channels)  # in [0, 1]
        return bank, InputSpec(pixels).check(X)

    def _blocks(self, bank: GaborResponses | ConvResponses, inputs: Inputs, what: str) -> Iterator[list[torch.Tensor]]:
        with tqdm(total=len(inputs), desc=what, unit="image", disable=not self.verbose) as progress:
            for maps in bank(inputs):
                yield maps
                progress.update(len(maps[0]))

    def _histograms(self, maps: list[torch.Tensor]) -> np.ndarray:
        """Normalised histograms (n, n_filters * n_bins) of a block of images."""
        parts, start = [], 0
        for values in maps:
            inner = torch.from_numpy(self.edges_[start : start + values.shape[1], 1:-1]).float().contiguous()
            n, n_filters = values.shape[:2]
            by_filter = values.flatten(2).transpose(0, 1).flatten(1).contiguous()
            bins = torch.searchsorted(inner, by_filter, right=True).view(n_filters, n, -1)
            offsets = torch.arange(n) * n_filters + torch.arange(n_filters)[:, None]
            cells = (bins + (offsets * self.n_bins)[:, :, None]).flatten()
            counts = torch.bincount(cells, minlength=n * n_filters * self.n_bins)
            parts.append(counts.view(n, n_filters * self.n_bins).float() / bins.shape[-1])
            start += n_filters
        return torch.cat(parts, dim=1).numpy()

    def fingerprint(self, X: Any) -> str:
        """Identifier of the images together with the bank and its bins, used by :meth:`write`.

        Parameters
        ----------
        X : images of length n

        Returns
        -------
        name : str
        """
        check_is_fitted(self)
        return self._named(self._responses(X)[1])

    def _named(self, inputs: Inputs) -> str:
        hasher = xxhash.xxh3_128(np.ascontiguousarray(self.edges_).data)
        hasher.update(repr(self.layers_).encode())
        if self.bank == "conv":
            hasher.update(self._load_backbone().space + repr(self.activation).encode())
        for start in range(0, len(inputs), 1024):
            for key in inputs.keys(range(start, min(start + 1024, len(inputs)))):
                hasher.update(key)
        return hasher.hexdigest()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags


def _fine_counts(values: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Number of responses (n, F, H, W) of each filter in each of 2,000 equal intervals."""
    n_filters = values.shape[1]
    by_filter = values.transpose(0, 1).flatten(1).double()
    at = ((by_filter - low[:, None]) * (_INTERVALS / (high - low))[:, None]).long().clamp_(0, _INTERVALS - 1)
    at += torch.arange(n_filters)[:, None] * _INTERVALS
    return torch.bincount(at.flatten(), minlength=n_filters * _INTERVALS).view(n_filters, _INTERVALS).double()


def _equal_mass(low: float, high: float, counts: np.ndarray, n_bins: int) -> np.ndarray:
    """Bin edges that contain equal shares of the mass, assuming that it is uniform within each interval."""
    mass = np.concatenate([[0], counts.cumsum()])
    edges = np.interp(np.arange(n_bins + 1) / n_bins * mass[-1], mass, np.linspace(low, high, _INTERVALS + 1))
    edges[[0, -1]] = low, high
    return edges
