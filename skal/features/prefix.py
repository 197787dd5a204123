"""The frozen prefix of a network, with cached activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from skal.backbones import Backbone
from skal.features.activations import Point, frozen_activations
from skal.features.cache import Cache
from skal.features.gathered import Gathered
from skal.features.pooling import pool
from skal.features.stored import StoredActivations
from skal.features.views import both_views
from skal.images.forms import as_data
from skal.images.inputs import Inputs, JoinedInputs, TensorInputs

INFERENCE_BATCH = 256
_SILENT = 512  # most images without a progress bar: a query reads the pool in blocks of this size


@dataclass(frozen=True)
class Prefix:
    """The frozen first layers of a pre-trained network, and the cache of their activations.

    Parameters
    ----------
    backbone : Backbone
    n_frozen : int
        Number of frozen weight layers.
    device : str, default="cpu"
    cache : Cache or None, default=None
    verbose : bool, default=False
        Whether to show a progress bar for more than 512 images.
    mirrors : bool, default=False
        Whether images are used together with their mirror images.

    Examples
    --------
    >>> from skal.backbones import load_backbone
    >>> backbone = load_backbone(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)))
    >>> prefix = Prefix(backbone, n_frozen=1)
    >>> inputs = backbone.inputs.check(np.zeros((3, 4)))
    >>> [block.shape for block in prefix.activations(inputs)]
    [torch.Size([3, 8])]
    """

    backbone: Backbone
    n_frozen: int
    device: str = "cpu"
    cache: Cache | None = None
    verbose: bool = False
    mirrors: bool = False

    @property
    def cut(self) -> fx.Node:
        """The end of the prefix: the last tensor before any trainable parameter."""
        return self.backbone.layers.cut(self.n_frozen)

    def check(self, X: Any) -> Inputs:
        """Images or features as network inputs. Raises a ValueError if they are invalid."""
        inputs = self.backbone.inputs.check(as_data(X))
        expected = self.backbone.n_features
        if isinstance(inputs, TensorInputs) and expected not in (None, inputs.array.shape[1]):
            raise ValueError(f"X has {inputs.array.shape[1]} features, but the network takes {expected}")
        return inputs

    def activations(self, inputs: Inputs) -> Iterator[torch.Tensor]:
        """Activations at the cut, in blocks of rows. Stored activations are used for images that are not available."""
        if isinstance(inputs, JoinedInputs) and any(isinstance(part, StoredActivations) for part in inputs.parts):
            for part, rows in inputs.runs(range(len(inputs))):
                if isinstance(part, StoredActivations):
                    yield part.rows[torch.from_numpy(rows)]
                else:
                    yield from self.activations(JoinedInputs((part, rows)))
        elif isinstance(inputs, StoredActivations):
            yield inputs.rows
        else:
            for (block,) in self.at(inputs, [Point(self.cut)]):
                yield block

    def views(self, inputs: Inputs) -> tuple[Inputs, ...]:
        """Images, and their mirror images if `mirrors` is set."""
        return both_views(inputs) if self.mirrors else (inputs,)

    def viewed(self, inputs: Inputs) -> Iterator[tuple[torch.Tensor, ...]]:
        """Activations at the cut of each view, in blocks of rows."""
        silent = replace(self, verbose=False)  # one bar for both views
        first, *others = self.views(inputs)
        return zip(self.activations(first), *(silent.activations(other) for other in others), strict=True)

    def viewed_at(self, inputs: Inputs, points: list[Point]) -> Iterator[tuple[list[torch.Tensor], ...]]:
        """As :meth:`at`, for each view. The views are processed in step, so that each image is read once."""
        silent = replace(self, verbose=False)  # one bar for both views
        first, *others = self.views(inputs)
        return zip(self.at(first, points), *(silent.at(other, points) for other in others), strict=True)

    def at(self, inputs: Inputs, points: list[Point]) -> Iterator[list[torch.Tensor]]:
        """Activations at several points of the pre-trained network, in blocks of rows."""
        return frozen_activations(
            self.backbone,
            inputs,
            points,
            device=self.device,
            cache=self.cache,
            verbose=self.verbose and len(inputs) > _SILENT,
        )

    def uncached(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function from network inputs to activations at the cut, for augmented images, which are never the same."""
        layers = self.backbone.layers
        module = layers.segment(layers.input, [self.cut]).to(self.device).eval()

        def run(images: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return module(images.to(self.device))[0].cpu()

        return run

    def layer_activations(
        self, inputs: Inputs, layers: Sequence[int | str], *, pooled: bool = False, trained: nn.Module | None = None
    ) -> list[np.ndarray]:
        """Activations at layers before and after the cut, flattened.

        Parameters
        ----------
        inputs : Inputs
        layers : sequence of int or str
            Negative counts of weight layers from the end, or names.
        pooled : bool, default=False
            Whether feature maps are averaged over space.
        trained : nn.Module or None, default=None
            The current layers after the cut. None uses the pre-trained ones.

        Returns
        -------
        activations : list of ndarray of shape (n, D)
            One array per layer, float32.
        """
        graph, cut = self.backbone.layers, self.cut
        nodes = [graph.resolve(layer) for layer in layers]
        distinct = dict.fromkeys(nodes)
        after = [node for node in distinct if trained is not None and graph.is_before(cut, node)]
        frozen = [node for node in distinct if node not in after and node is not cut]
        suffix = graph.segment(cut, after, root=trained).eval() if after else None
        found = {node: Gathered(len(inputs)) for node in nodes}
        # The cut is always included: callers usually train or predict with its activations next.
        for at_cut, *others in self.at(inputs, [Point(cut), *(Point(node, pooled) for node in frozen)]):
            for node, values in zip(frozen, others, strict=True):
                found[node].add(values.flatten(1))
            if cut in found:
                found[cut].add(pool(at_cut, pooled).flatten(1))
            if suffix is not None:
                with torch.inference_mode():
                    for batch in at_cut.split(INFERENCE_BATCH):
                        for node, values in zip(after, suffix(batch.to(self.device)), strict=True):
                            found[node].add(pool(values, pooled).flatten(1))
        return [found[node].rows.numpy() for node in nodes]

    def source_proba(self, inputs: Inputs) -> np.ndarray:
        """Probabilities (n, n_outputs) of the source classes under the pre-trained network and its own head."""
        graph = self.backbone.layers
        head = graph.head_segment().to(self.device)
        logits = [
            run_batched(lambda x: head(x)[0], block, self.device)
            for (block,) in self.at(inputs, [Point(graph.features)])
        ]
        return torch.cat(logits).softmax(dim=1).numpy()


def default_depth(backbone: Backbone) -> int:
    """Number of weight layers up to layer A of the transformation pattern; 0 if the network is too shallow for one."""
    layers = backbone.layers
    if len(layers.weight_layers) < 3:
        return 0
    return layers.depth(layers.resolve(layers.pattern_layers()[0][0]))


def mean_of_views(views: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean over views."""
    return views[0] if len(views) == 1 else torch.stack([*views]).mean(dim=0)


def run_batched(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, device: str) -> torch.Tensor:
    """Run part of a network on many rows in inference mode, batch by batch."""
    with torch.inference_mode():
        return torch.cat([run(batch.to(device)).cpu() for batch in x.split(INFERENCE_BATCH)])
