"""Seconds of a person's time until a model reaches a target accuracy: a labelling session against random labels.

A scripted person needs one second per answer and 0.3 per cell of a grid, and is always right. Four methods are
compared, each with a new model every 10 seconds, on test images outside the pool:

- ``session``: a :class:`skal.label.LabelSession` with default settings. One question in five is an audit question and
  is not trained on;
- ``session and grids``: the same, and after each model the grid it is most confident of, if the mean confidence is
  above 0.7;
- ``random``: random labels, none of them for the audit, with the session's classifier without the pool;
- ``random, regression``: random labels with scikit-learn's logistic regression on the same features.

The target is 90 % of the accuracy of the session's classifier trained on the labels of the whole pool. ``--images`` is
a folder with one folder per class. Each seed draws 30 % of it as the test set. Each method, folder and seed is one line
of ``--output``. The same call resumes a stopped run.

    python examples/studies/person_time.py --images DIR --name textures10
    python examples/studies/person_time.py --table
"""

import argparse
import csv
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from skal import FrozenPrefixClassifier
from skal.label import LabelSession

ANSWER, CELL, ROUND, LIMIT = 1.0, 0.3, 10.0, 500.0
SURE = 0.7
WAYS = ("session", "session and grids", "random", "random, regression")
FIELDS = (
    "images", "seed", "way", "n_classes", "n_pool", "target", "seconds", "accuracy", "n_labels", "n_answers",
    "n_suggestions_accepted", "n_grids", "n_cells", "n_cells_right",
)  # fmt: skip


def truth(path):
    return Path(path).parent.name


def read_folder(folder, n_classes):
    """Image paths of the first classes, in the order of their names."""
    kinds = sorted(path for path in Path(folder).iterdir() if path.is_dir())[:n_classes]
    return np.array(sorted(str(path) for kind in kinds for path in kind.iterdir() if path.is_file()))


def network(cache, side):
    return FrozenPrefixClassifier(
        "efficientnet_lite0", image_size=side, max_epochs=0, min_steps=0, cache=cache, random_state=0
    )


class Person:
    """Answers correctly, and counts the answers and seconds."""

    def __init__(self, session):
        self.session, self.seconds, self.counts = session, 0.0, dict.fromkeys(FIELDS[9:], 0)

    def answer_until(self, seconds):
        while self.seconds < seconds and (question := self.session.next()) is not None:
            label = truth(question.path)
            self.session.answer(question.id, label, seconds=ANSWER)
            self.seconds += ANSWER
            self.counts["n_answers"] += 1
            self.counts["n_suggestions_accepted"] += question.suggestion == label

    def take_a_grid(self):
        """Answer the grid that the model is most confident of, if its confidence is high enough."""
        grids = [grid for name in self.session.classes if len(grid := self.session.grid(name)) >= 8]
        sure, grid = max(
            ((np.mean([q.probability for q in grid]), grid) for grid in grids), default=(0, None), key=first
        )
        if sure < SURE:
            return
        label = grid[0].suggestion
        right = [question.id for question in grid if truth(question.path) == label]
        wrong = [question.id for question in grid if question.id not in right]
        self.session.answer_grid(label, right, wrong, seconds=CELL * len(grid))
        self.seconds += CELL * len(grid)
        for name, n in zip(("n_grids", "n_cells", "n_cells_right"), (1, len(grid), len(right)), strict=True):
            self.counts[name] += n


def first(pair):
    return pair[0]


def in_session(pool, test, target, seed, estimator, with_grids):
    """Run a session until the target is reached."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"classes": sorted({truth(path) for path in pool}), "batch_size": 10**6, "random_state": seed}
        with LabelSession(list(pool), Path(folder) / "project", estimator=estimator, **options) as session:
            while session.status().background or not session._reading.is_done:
                time.sleep(0.05)
            person, accuracy = Person(session), 0.0
            while accuracy < target and person.seconds < LIMIT:
                person.answer_until(ROUND * (person.seconds // ROUND + 1))
                session.fit()
                accuracy = float(np.mean(session.predict(test).label == [truth(path) for path in test]))
                seconds, n_labels = person.seconds, len(session.labels)
                if with_grids and accuracy < target:
                    person.take_a_grid()
    return {"seconds": seconds, "accuracy": accuracy, "n_labels": n_labels, **person.counts}


def at_random(pool, test, target, seed, fit):
    """Add random labels until the target is reached."""
    order, accuracy, n = np.random.default_rng(seed).permutation(pool), 0.0, 0
    while accuracy < target and n < min(LIMIT, len(pool)):
        n += int(ROUND / ANSWER)
        paths = order[:n]
        predict = fit(paths, np.array([truth(path) for path in paths]))
        accuracy = float(np.mean(predict(test) == [truth(path) for path in test]))
    return {"seconds": n * ANSWER, "accuracy": accuracy, "n_labels": n, "n_answers": n}


def run(name, pool, test, target, seed, way, estimator):
    if way.startswith("session"):
        return in_session(pool, test, target, seed, estimator, way != "session")

    def features(paths):
        return estimator.activations(paths, [-2], pooled=True, pretrained=True)[0]

    def regression(paths, labels):
        fitted = LogisticRegression(max_iter=2000).fit(features(paths), labels)
        return lambda images: fitted.predict(features(images))

    def probe(paths, labels):
        return network(estimator.cache, estimator.image_size).fit(paths, labels).predict

    return at_random(pool, test, target, seed, probe if way == "random" else regression)


def table(output):
    """Means over the seeds, and the ratio of the seconds to those of random labels with the same classifier."""
    found = pd.read_csv(output)
    found["reached"] = found.accuracy >= found.target
    grouped = found.groupby(["images", "way"], sort=False)
    means = grouped[["target", "seconds", "n_labels", "n_suggestions_accepted", "n_grids"]].mean()
    means["reached"] = [
        f"{int(n)} of {len(group)}" for (_, group), n in zip(grouped, grouped.reached.sum(), strict=True)
    ]
    random = means.seconds.xs("random", level="way")
    means["against random"] = means.seconds / random.reindex(means.index.get_level_values("images")).to_numpy()
    return means.round(
        {"target": 3, "seconds": 0, "n_labels": 0, "n_suggestions_accepted": 0, "n_grids": 1, "against random": 2}
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="folder with one folder per class")
    parser.add_argument("--name", help="name of the images in the table")
    parser.add_argument("--n-classes", type=int, help="number of classes to use (default: all)")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", default="activations", help="folder for cached activations")
    parser.add_argument("--output", default="docs/results/person_time.csv")
    parser.add_argument("--table", action="store_true", help="only write the means next to --output")
    args = parser.parse_args()
    output = Path(args.output)
    if args.table:
        means = table(output)
        means.to_csv(output.with_name(f"{output.stem}_table.csv"))
        print(means.to_string())
        return
    done = set()
    if output.exists():
        done = {(row.images, row.seed, row.way) for row in pd.read_csv(output).itertuples()}
    paths = read_folder(args.images, args.n_classes)
    names = np.array([truth(path) for path in paths])
    for seed in range(args.seeds):
        ways = [way for way in WAYS if (args.name, seed, way) not in done]
        if not ways:
            continue
        pool, test = train_test_split(paths, test_size=0.3, random_state=seed, stratify=names)
        estimator = network(args.cache, args.image_size)
        best = network(args.cache, args.image_size).fit(pool, np.array([truth(path) for path in pool]))
        target = 0.9 * best.score(test, np.array([truth(path) for path in test]))
        for way in ways:
            start = time.process_time()
            found = run(args.name, pool, test, target, seed, way, estimator)
            row = {"images": args.name, "seed": seed, "way": way, "n_classes": len(set(names)), "n_pool": len(pool)}
            row |= {"target": round(target, 4)} | {k: round(v, 4) for k, v in found.items()}
            is_new = not output.exists()
            with open(output, "a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, FIELDS, restval=0)
                if is_new:
                    writer.writeheader()
                writer.writerow(row)
            print(f"{row} ({time.process_time() - start:.0f} s CPU time)", flush=True)


if __name__ == "__main__":
    main()
