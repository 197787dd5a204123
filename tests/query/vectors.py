"""A classifier of vectors, with its network rebuilt in double precision for the plain version of EMOC."""

from copy import deepcopy

import numpy as np
import torch
from torch import nn

from skal import FrozenPrefixClassifier
from skal._random import seeded
from tests.reference.emoc import changes


class Adapted(nn.Module):
    """A fitted classifier of vectors rebuilt in double precision: the whole network, its frozen part and head."""

    def __init__(self, body, estimator):
        super().__init__()
        self.body, self.normalize = deepcopy(body)[:-1], estimator.normalize
        state = estimator.net_.module_.state_dict()
        rows, columns = state["head.weight"].shape
        with seeded(0):
            self.head = nn.Linear(columns, rows)
        kept = {name[5:]: value for name, value in state.items() if name.startswith("body.")}
        assert not self.body.load_state_dict(kept, strict=False)[1]
        self.head.load_state_dict({name: state[f"head.{name}"] for name in ("weight", "bias")})
        linear = [part for part in self.body if isinstance(part, nn.Linear)]
        for part in linear[: estimator.n_frozen_]:
            part.requires_grad_(False)
        self.double()

    def forward(self, x):
        z = self.body(x)
        return self.head(z / z.norm(dim=1, keepdim=True) * z.shape[1] ** 0.5 if self.normalize else z)


def body():
    with seeded(5):
        return nn.Sequential(
            nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 9), nn.Tanh(), nn.Linear(9, 4)
        )


def vectors(n, seed):
    return np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32)


def blank(**options):
    return FrozenPrefixClassifier(
        body(), **{"n_frozen": 1, "max_epochs": 3, "min_steps": 0, "lr": 0.02, "random_state": 0} | options
    )


CLASSES = np.array(["dog", "ant", "cat"])


REFERENCE, POOL = vectors(6, 1), 2 * vectors(20, 2)


def oracle_each(estimator, output="logit", reference=REFERENCE, pool=POOL):
    net = Adapted(body(), estimator)
    return changes(net, torch.as_tensor(reference).double(), torch.as_tensor(pool).double(), output)
