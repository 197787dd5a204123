r"""Make the source profile of a network: one centre per source class, at layers A and B.

    python examples/studies/make_source_profile.py DIR --backbone mobilenet_v2 --weights FILE \
        --image-size 129 --output FILE

DIR has images of the source task and ``labels.csv`` with the columns ``label`` (the output of the network's own
head), ``name`` and ``file``. The profile of the quickstart was made from one ImageNet image per class with

    python examples/studies/make_source_profile.py DIR --image-size 96 --dtype float16 \
        --output examples/data/efficientnet_lite0_imagenet_96px.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from _common import add_network_options, network

from skal import SourceProfile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of source images, with labels.csv")
    add_network_options(parser)
    parser.add_argument("--two-patterns", action="store_true", help="also store the layers of ADMA-2")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    labels = pd.read_csv(args.folder / "labels.csv")
    layers = [(-4, -2), (-5, -2)] if args.two_patterns else None
    profile = SourceProfile(**network(args.backbone, args.weights, args.image_size), layers=layers)
    paths = [str(args.folder / file) for file in labels["file"]]
    names = labels.drop_duplicates("label").sort_values("label")["name"].tolist()
    profile.fit(paths, labels["label"].to_numpy(), class_names=names)
    profile.save(args.output, dtype=args.dtype)
    print(f"{len(profile.classes_)} centres at {profile.layers_}: {args.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
