r"""Put several runs of the quickstart into one table and one figure.

    python examples/studies/join_records.py --run RESULTS_1 "adma=ADMA, 0.01" \
        --run RESULTS_2 "adma=ADMA, 0.1" --output DIR

Each --run is an output folder of quickstart.py and how its strategies are called in the joint figure.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from _common import draw, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="+", action="append", required=True, metavar="DIR OLD=NEW")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    frames = []
    for folder, *renames in args.run:
        names = dict(rename.split("=", 1) for rename in renames)
        frame = pd.read_csv(Path(folder) / "records.csv")
        frames.append(frame.assign(strategy=frame["strategy"].replace(names)))
    # Every run trained the same network on all labels: one of them is enough.
    records = pd.concat(frames).drop_duplicates(["strategy", "seed", "n_labels"])
    args.output.mkdir(parents=True, exist_ok=True)
    records.round(4).to_csv(args.output / "records.csv", index=False)
    table(records).to_csv(args.output / "table.csv")
    draw(records, args.output / "learning_curve.png")
    areas = records[records.strategy != "all labels"].groupby(["strategy", "seed"])["accuracy"].mean()
    print(areas.groupby("strategy", sort=False).agg(["mean", "std"]).round(3).to_string())


if __name__ == "__main__":
    main()
