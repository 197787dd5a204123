"""Selective joint fine-tuning: train on target images and, jointly, on source images that look similar."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.utils._param_validation import Interval
from torch import nn
from torch.utils.data import Dataset

from skal._targets import check_labels
from skal.features.prefix import run_batched
from skal.images.forms import unwrap
from skal.images.inputs import Inputs, JoinedInputs
from skal.selective.descriptors import FilterBankDescriptor
from skal.selective.neighbors import SymmetricKLNeighbors
from skal.training.batches import LabelledRows
from skal.training.fine_tuning import FineTuning
from skal.training.head import HeadPenalty, solve_head
from skal.training.net import SuffixNet
from skal.training.problem import Problem, Start
from skal.training.recipe import Recipe, Trained
from skal.training.suffix import Suffix


class SelectiveJoint(Recipe):
    """Fine-tune jointly with a source task, on the source images that are most similar in low-level appearance.

    The nearest neighbours of each labelled image among the source images are found by histograms of filter responses.
    Target and source task share all layers except their heads. Each training step uses labelled images and, for each
    of them, one of its neighbours. After each iteration, images that remain hard are given more neighbours.

    Parameters
    ----------
    n_neighbors : int, default=100
        Number of neighbours of each labelled image in the first iteration (K_0).
    n_iterations : int, default=5
        Number of iterations. An image that is misclassified after an iteration is given 4 K_0 more neighbours, and one
        that is classified correctly but with uncertainty 2 K_0 (Eq. 3). The iterations share the epochs and steps of
        the classifier.
    descriptor : FilterBankDescriptor or None, default=None
        Image descriptor used to find neighbours. It is fitted on the labelled images. None uses the first two
        convolutions of the backbone.
    delta : float, default=0.1
        Entropy, in nats, from which a prediction is uncertain.
    min_per_class : int, default=2
        Source classes with fewer borrowed images are left out.
    fusion : bool, default=True
        Whether predictions average the probabilities of the models after all iterations. Otherwise only the last model
        is used.

    Notes
    -----
    ``fit`` accepts ``X_source, y_source``: the source images and their labels, or tuples of several such sets, whose
    classes are treated as distinct. The fitted classifier has three additional attributes. ``n_neighbors_``, an ndarray
    of shape (n_iterations, n), holds the number of neighbours of each labelled image in each iteration. ``borrowed_``
    holds, for each iteration, the source rows that it trained on. ``neighbors_``, an ndarray of shape (n, k), holds the
    source rows nearest to each labelled image, nearest first.

    The paper trains the whole network (``n_frozen=0``). Without source data, this recipe is equivalent to
    :class:`FineTuning`.

    References
    ----------
    .. [1] Ge, Yu. "Borrowing treasures from the wealthy: deep transfer learning through selective joint fine-tuning",
       CVPR 2017.

    Examples
    --------
    >>> from skal import FrozenPrefixClassifier, SelectiveJoint
    >>> rng = np.random.default_rng(0)
    >>> X, X_source = (rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8) for n in (12, 40))
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
    ...                     nn.Flatten(), nn.Linear(4, 2))
    >>> recipe = SelectiveJoint(n_neighbors=3, n_iterations=2)
    >>> classifier = FrozenPrefixClassifier(net, n_frozen=0, image_size=16, recipe=recipe, random_state=0)
    >>> classifier.fit(X, np.arange(12) % 2, X_source=X_source, y_source=np.arange(40) % 4).borrowed_[0].shape[0] <= 36
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "n_iterations": [Interval(Integral, 1, None, closed="left")],
        "descriptor": [FilterBankDescriptor, None],
        "delta": [Interval(Real, 0, None, closed="left")],
        "min_per_class": [Interval(Integral, 1, None, closed="left")],
        "fusion": ["boolean"],
    }

    def __init__(
        self,
        n_neighbors: int = 100,
        *,
        n_iterations: int = 5,
        descriptor: FilterBankDescriptor | None = None,
        delta: float = 0.1,
        min_per_class: int = 2,
        fusion: bool = True,
    ):
        self.n_neighbors = n_neighbors
        self.n_iterations = n_iterations
        self.descriptor = descriptor
        self.delta = delta
        self.min_per_class = min_per_class
        self.fusion = fusion

    def train(self, problem: Problem, *, X_source: Any = None, y_source: Any = None) -> Trained:
        """Train the suffix in iterations, each with more neighbours for images that were hard in the last one."""
        if X_source is None:
            return FineTuning().train(problem)
        if problem.prefix.backbone.inputs.transform is None:
            raise ValueError("SelectiveJoint compares low-level descriptors of images, but X contains 2-D features")
        sets = [(problem.check(images), labels) for images, labels in self._sets(X_source, y_source)]
        source = _Source(problem, sets)
        n_target, n_source = len(problem.y), len(source.y)
        most = min(n_source, self.n_neighbors * (1 + 4 * (self.n_iterations - 1)))
        nearest = self._nearest(problem, [images for images, _ in sets], most)

        start = problem.start()
        n_near = np.full(n_target, min(self.n_neighbors, n_source))
        counts, borrowed_in, models, histories = [], [], [], []
        for n_left in reversed(range(self.n_iterations)):
            lists = [nearest[i, : n_near[i]] for i in range(n_target)]
            borrowed = np.unique(np.concatenate(lists))
            kept, sizes = np.unique(source.y[borrowed], return_counts=True)
            kept = kept[sizes >= self.min_per_class]
            borrowed = borrowed[np.isin(source.y[borrowed], kept)]
            lists = [rows[np.isin(source.y[rows], kept)] for rows in lists]
            counts.append(n_near)
            borrowed_in.append(borrowed)
            targets = np.searchsorted(kept, source.y)
            net = problem.net(
                TwoHeads(start.suffix, source.next_head(start, borrowed, kept)),
                n_target,
                penalty=start.penalty,
                net_class=JointNet,
                n_parts=self.n_iterations,
                reserved=problem.seconds_left * n_left / (n_left + 1) if problem.deadline else 0.0,
            )
            net.fit(PairedRows(problem.rows(), lists, targets, problem.load(source.inputs)), None)
            histories += net.history.to_list()
            models.append(copy.deepcopy(start.suffix).cpu())
            start.settle(models[-1])
            n_near = np.minimum(self._more(n_near, models[-1], problem), n_source)
        return Trained(
            problem.finished_net(models[-1], histories),
            problem.classes,
            fused=models[:-1] if self.fusion else [],
            attributes={"n_neighbors_": np.stack(counts), "borrowed_": borrowed_in, "neighbors_": nearest},
        )

    def _sets(self, X_source: Any, y_source: Any) -> list[tuple[Any, np.ndarray]]:
        """Source images and labels as a list of sets. Raises an error if these do not match or labels are invalid."""
        X_source, y_source = unwrap(X_source), unwrap(y_source)
        if isinstance(X_source, tuple) != isinstance(y_source, tuple):
            raise ValueError(
                "X_source and y_source must both be tuples for several source sets, but only one is a tuple"
            )
        if not isinstance(X_source, tuple):
            return [(X_source, check_labels(self, X_source, y_source, "y_source"))]
        if len(X_source) != len(y_source):
            raise ValueError(f"X_source contains {len(X_source)} sets, but y_source contains {len(y_source)}")
        sets = zip(X_source, y_source, strict=True)
        return [(X, check_labels(self, X, y, f"y_source[{i}]")) for i, (X, y) in enumerate(sets)]

    def _nearest(self, problem: Problem, sources: Sequence[Inputs], k: int) -> np.ndarray:
        """Source rows nearest to each target image, by descriptors whose bins are fitted to the target."""
        backbone, prefix = problem.prefix.backbone, problem.prefix
        descriptor = self.descriptor
        if descriptor is None:
            descriptor = FilterBankDescriptor(
                "conv",
                backbone=backbone.layers.module,
                preprocess=backbone.inputs.transform,
                device=prefix.device,
                verbose=prefix.verbose,
            )
        descriptor = clone(descriptor).fit(problem.inputs)
        search = SymmetricKLNeighbors(k, weights=descriptor.weights_, device=prefix.device, verbose=prefix.verbose)
        queries = descriptor.transform(problem.inputs)
        folder = getattr(prefix.cache, "folder", None)
        if folder is None:
            return search.fit([descriptor.transform(part) for part in sources]).kneighbors(queries)[1]
        # In a folder, so that an interrupted pass can resume.
        parts = [descriptor.write(part, folder) for part in sources]
        return search.fit(parts).kneighbors(queries, checkpoint=folder)[1]

    def _more(self, n_near: np.ndarray, model: Suffix, problem: Problem) -> np.ndarray:
        """Number of neighbours in the next iteration: more where the model is wrong or uncertain (Eq. 2 and 3)."""
        proba = problem.logits(model).double().softmax(1)
        entropy = -torch.special.xlogy(proba, proba).sum(1).numpy()
        is_right = proba.argmax(1).numpy() == problem.targets.numpy()
        return more_neighbors(n_near, is_right, entropy, self.n_neighbors, self.delta)


class _Source:
    """The source task: its images, their classes, and its head, which is passed on between iterations."""

    def __init__(self, problem: Problem, sets: Sequence[tuple[Inputs, np.ndarray]]):
        self.problem = problem
        self.inputs = JoinedInputs(*((images, range(len(images))) for images, _ in sets))
        encoded, offset = [], 0
        for _, labels in sets:
            classes, codes = np.unique(labels, return_inverse=True)
            encoded.append(codes + offset)
            offset += len(classes)
        self.y = np.concatenate(encoded)  # classes of different sets are different classes
        self.head: nn.Linear | None = None
        self.classes = np.empty(0, dtype=int)

    def next_head(self, start: Start, borrowed: np.ndarray, kept: np.ndarray) -> nn.Linear:
        """A head for the source classes of an iteration: solved, or with the rows of the previous head."""
        new = nn.Linear(start.suffix.head.in_features, max(len(kept), 1), dtype=torch.float32)
        if self.problem.options.head_init == "random":
            if self.head is not None:
                stayed = np.intersect1d(self.classes, kept)
                before, after = np.searchsorted(self.classes, stayed), np.searchsorted(kept, stayed)
                with torch.no_grad():
                    new.weight[after] = self.head.weight.cpu()[before]
                    new.bias[after] = self.head.bias.cpu()[before]
        elif len(kept) > 1:
            prefix = self.problem.prefix
            read = start.suffix.to(prefix.device).eval().head_input
            blocks = prefix.activations(JoinedInputs((self.inputs, borrowed)))
            features = torch.cat([run_batched(read, block, prefix.device) for block in blocks]).numpy()
            solve_head(new, features, np.searchsorted(kept, self.y[borrowed]), HeadPenalty.of(features))
        self.head, self.classes = new, kept
        return new


def more_neighbors(
    n_near: ArrayLike, is_right: ArrayLike, entropy: ArrayLike, n_first: int, delta: float = 0.1
) -> np.ndarray:
    """Number of neighbours of each target image in the next iteration (Eq. 3).

    Parameters
    ----------
    n_near : array-like of int, shape (n,)
        Number of neighbours in this iteration.
    is_right : array-like of bool, shape (n,)
        Whether each prediction is correct.
    entropy : array-like of shape (n,)
        Entropy of the predictions, in nats (Eq. 2).
    n_first : int
        Number of neighbours in the first iteration, K_0.
    delta : float, default=0.1
        Entropy from which a prediction is uncertain.

    Returns
    -------
    n_near : ndarray of int, shape (n,)

    Examples
    --------
    >>> more_neighbors([10, 10, 10], [False, True, True], [0.0, 0.5, 0.05], 10)
    array([50, 30, 10])
    """
    unsure = np.where(np.asarray(entropy) >= delta, 2 * n_first, 0)
    return np.asarray(n_near) + np.where(is_right, unsure, 4 * n_first)


class TwoHeads(nn.Module):
    """A suffix with its own head and that of the source task; returns the concatenated logits of both."""

    def __init__(self, suffix: Suffix, source_head: nn.Linear):
        super().__init__()
        self.suffix = suffix
        self.source_head = source_head

    @property
    def head(self) -> nn.Linear:
        return self.suffix.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.suffix.head_input(x)
        return torch.cat([self.suffix.head(features), self.source_head(features)], dim=1)


class JointNet(SuffixNet):
    """Adds the losses of the two tasks, each over its own images.

    Labels are a dict of ``target``, ``is_source`` and, if given, ``weight`` of the target images.
    """

    def get_loss(
        self, y_pred: torch.Tensor, y_true: dict[str, torch.Tensor], X: Any = None, training: bool = False
    ) -> Any:
        n_classes = self.module_.head.out_features
        is_source, target = y_true["is_source"], y_true["target"]
        labels: Any = target[~is_source]
        if "weight" in y_true:
            labels = {"target": labels, "weight": y_true["weight"]}
        loss = super().get_loss(y_pred[~is_source, :n_classes], labels, X, training)
        if is_source.any():
            logits = y_pred[is_source, n_classes:]
            loss = loss + nn.functional.cross_entropy(logits, target[is_source].to(logits.device))
        return loss


class PairedRows(Dataset):
    """Batches of target images, each with one of its neighbours, which is drawn again each time.

    Parameters
    ----------
    target : LabelledRows
    lists : list of ndarray
        Source rows from which the neighbour of each target image is drawn, with torch's generator.
    y_source : ndarray of shape (n_source,)
        Output of the source head for each source row.
    load : callable
        Maps source rows to activations.
    """

    def __init__(
        self,
        target: LabelledRows,
        lists: list[np.ndarray],
        y_source: np.ndarray,
        load: Callable[[np.ndarray], torch.Tensor],
    ):
        self.target = target
        self.lists = lists
        self.y_source = y_source
        self.load = load

    def __len__(self) -> int:
        return len(self.lists)

    def __getitem__(self, rows: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x, labels = self.target[rows]
        labels = dict(labels) if isinstance(labels, dict) else {"target": labels}
        with_some = [self.lists[i] for i in rows if len(self.lists[i])]
        n, n_borrowed = len(x), len(with_some)
        if with_some:
            chances = torch.rand(n_borrowed, dtype=torch.float32).tolist()
            drawn = np.array([near[int(chance * len(near))] for near, chance in zip(with_some, chances, strict=True)])
            x = torch.cat([x, self.load(drawn)])
            labels["target"] = torch.cat([labels["target"], torch.from_numpy(self.y_source[drawn])])
        return x, {**labels, "is_source": torch.arange(n + n_borrowed) >= n}
