"""Compare the default with fine-tuning all layers in plain PyTorch, with flips and crops, on all labels of a task.

    python examples/studies/all_labels.py --images DIR --name scenes15 --backbone NAME --weights FILE --image-size 97

"plain" is what a user would write with torchvision: a new linear head, SGD with momentum .9, weight decay 1e-4, label
smoothing .1, a learning rate with warm-up over a tenth of the steps and cosine decay, 25 epochs in batches of 32. The
default is compared with the best of several learning rates *on the test images*. "a third" trains a third of the
layers, on unmodified images, as the default does with fewer labels. Rows already in the CSV file are kept. ``--table
FILE`` writes the table of its rows.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _common import add_images_option, add_network_options, load_task, network, pixels
from depth import flipped_and_cropped
from torch import nn

from skal import FrozenPrefixClassifier
from skal._random import seeded
from skal.backbones import load_backbone

EPOCHS, BATCH = 25, 32
KEYS = ["data", "network", "seed", "method"]


def with_new_head(name: str, weights: Path, n_classes: int) -> nn.Module:
    """A torchvision network with weights from a file and a randomly initialised last layer."""
    import torchvision  # after skal, as the README says

    net = torchvision.models.get_model(name)
    net.load_state_dict(torch.load(weights, weights_only=True))
    last = [place for place, part in net.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))][-1]
    old = net.get_submodule(last)
    new = (
        nn.Linear(old.in_features, n_classes)
        if isinstance(old, nn.Linear)
        else nn.Conv2d(old.in_channels, n_classes, 1)
    )
    parent, _, child = last.rpartition(".")
    setattr(net.get_submodule(parent), child, new)
    return net


def fine_tuned(net: nn.Module, X: torch.Tensor, targets: torch.Tensor, rate: float) -> nn.Module:
    """The network after training all of its layers."""
    n_batches = len(X) // BATCH
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=EPOCHS * n_batches, pct_start=0.1)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    net.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(X))[: n_batches * BATCH].view(-1, BATCH):
            optimizer.zero_grad()
            loss_of(net(flipped_and_cropped(X[rows])), targets[rows]).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy in percent and mean CPU seconds."""
    keys = {"index": ["data", "network"], "columns": "method", "sort": False}
    shown = 100 * rows.pivot_table(values="accuracy", **keys)
    best = shown.filter(like="plain").max(axis=1)
    shown["default over the best"] = shown["default"] - best
    return shown.join(rows.pivot_table(values="seconds", **keys).add_suffix(", s")).round(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_images_option(parser)
    add_network_options(parser)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.003, 0.01, 0.03])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--name", default="fashion_mnist", help="name of the data in the table (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("all_labels.csv"))
    parser.add_argument("--table", type=Path, help="only write the table of --output to this file")
    args = parser.parse_args()

    rows = pd.read_csv(args.output) if args.output.exists() else pd.DataFrame(columns=KEYS)
    if args.table:
        table(rows).to_csv(args.table)
        return
    X, y, X_test, y_test = load_task(args.images)
    if args.images is not None:
        X, X_test = (pixels(paths, args.image_size) for paths in (X, X_test))
    backbone = load_backbone(args.backbone, args.weights, image_size=args.image_size)
    options = {"default": {}, "a third": {"n_frozen": 2 * len(backbone.layers.weight_layers) // 3, "augment": None}}
    inputs, inputs_test = (backbone.inputs.transform(torch.from_numpy(images)) for images in (X, X_test))
    classes, targets = np.unique(y, return_inverse=True)
    done = set(map(tuple, rows[KEYS].to_numpy().tolist()))
    for seed in range(args.seeds):
        for method in (*options, *(f"plain, rate {rate}" for rate in args.rates)):
            run = (args.name, args.backbone, seed, method)
            if run in done:
                continue
            start = time.process_time()
            if method in options:
                net = FrozenPrefixClassifier(**network(args.backbone, args.weights, args.image_size))
                predicted = net.set_params(random_state=seed, **options[method]).fit(X, y).predict(X_test)
            else:
                with seeded(seed):
                    plain = with_new_head(args.backbone, args.weights, len(classes))
                    fine_tuned(plain, inputs, torch.from_numpy(targets), float(method.split()[-1]))
                with torch.no_grad():
                    predicted = classes[torch.cat([plain(part) for part in inputs_test.split(100)]).argmax(1).numpy()]
            row = {**dict(zip(KEYS, run, strict=True)), "accuracy": round(float(np.mean(predicted == y_test)), 4)}
            row["seconds"] = round(time.process_time() - start)
            header = not args.output.exists()
            pd.DataFrame([row]).to_csv(args.output, mode="a", header=header, index=False)


if __name__ == "__main__":
    main()
