"""Kill jobs at random moments, rerun them, and compare the results with those of uninterrupted runs.

The five jobs, on small images and a small network, are a fit, a query, a pass through the cached layers, a retrieval of
neighbours, and an experiment. Each is sent SIGKILL and SIGINT (Ctrl-C) six times at seeded random moments, 30 times
each in total. Each trial checks that

- an interrupt reaches the caller: the job does not return;
- the files of an interrupted experiment hold finished rounds only, each equal to that of the uninterrupted run;
- the same call, rerun on the files left behind, gives the result of the uninterrupted run to the last digit.

Trials are written to ``--folder`` one by one, and the same call resumes. The table is written to ``--output`` once
every trial has passed.

    python examples/studies/kills.py
"""

import argparse
import json
import os
import shutil
import signal
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from torch import nn

from skal import FrozenPrefixClassifier, ImageTransform, random_sampling
from skal.experiment import Task, run_experiment
from skal.query import uherding_sampling
from skal.selective import FilterBankDescriptor, SymmetricKLNeighbors

N_IMAGES, SIDE, N_CLASSES = 600, 16, 4
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGINT": signal.SIGINT}


def images(seed, n=N_IMAGES):
    """Noisy images of classes distinguished by colour."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % N_CLASSES
    base = rng.integers(60, 200, size=(N_CLASSES, 3))[y]
    return (base[:, None, None] + rng.integers(-50, 50, (n, SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8), y


def network():
    torch.manual_seed(0)
    layers = []
    for n_in, n_out in [(3, 16), (16, 16), (16, 32), (32, 32), (32, 32)]:
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


X, Y = images(0)
NET = network()


def classifier(folder, **params):
    return FrozenPrefixClassifier(
        NET, preprocess=ImageTransform(SIDE, SIDE), n_frozen=2, cache=folder / "cache", random_state=0, **params
    )


def fit(folder):
    return classifier(folder, max_epochs=10, min_steps=0).fit(X[:80], Y[:80]).predict_proba(X[-50:])


def query(folder):
    net = classifier(folder, max_epochs=0).fit(X[:20], Y[:20])
    return uherding_sampling(net, X[20:], 40, random_state=0)[0]


def cached_pass(folder):
    return classifier(folder, max_epochs=0).fit(X[:20], Y[:20]).transform(X)


def retrieval(folder):
    descriptor = FilterBankDescriptor().fit(X[:30])
    source = descriptor.write(X[:300], folder / "descriptors")
    search = SymmetricKLNeighbors(20, weights=descriptor.weights_).fit([source])
    return search.kneighbors(descriptor.transform(X[:20]), checkpoint=folder / "nearest.npz")[1]


def experiment(folder):
    records = run_experiment(
        classifier(folder, max_epochs=5, min_steps=0),
        {"random": random_sampling, "uherding": uherding_sampling},
        {"colours": Task(X[:200], Y[:200], X[-50:], Y[-50:])},
        n_queries=4,
        batch_size=8,
        seeds=[0],
        folder=folder / "runs",
    )
    return records[["n_labels", "accuracy", "macro_auc"]].to_numpy(), np.concatenate(records["indices"].tolist())


JOBS = {"fit": fit, "query": query, "cached pass": cached_pass, "retrieval": retrieval, "experiment": experiment}


def started(job, folder):
    """Fork a process that runs a job and writes its result. It exits with 130 if it receives an interrupt."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.signal(signal.SIGINT, received(folder))
        result = JOBS[job](folder)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        arrays = result if isinstance(result, tuple) else (result,)
        np.savez(folder / "result.npz", *arrays)
        status = 0
    except KeyboardInterrupt:
        status = 130
    finally:
        os._exit(status)


def received(folder):
    def handler(number, frame):
        (folder / "received").touch()
        raise KeyboardInterrupt

    return handler


def exit_code(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def result_of(folder):
    with np.load(folder / "result.npz") as file:
        return [file[name] for name in file.files]


def rounds(folder):
    """Contents of an experiment's files, without the values that change from run to run."""
    found = {}
    for file in (folder / "runs").glob("*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().rpartition("\n")[0].splitlines()[1:]]
        found[file.name] = [{k: v for k, v in line.items() if k not in CHANGING} for line in lines]
    return found


CHANGING = ("query_seconds", "fit_seconds", "checksum")


def undisturbed(job, folder):
    """Run a job twice without interruption. Return the seconds of the second run, when everything is loaded."""
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        start = time.perf_counter()
        assert exit_code(started(job, folder)) == 0, f"{job} failed without interruption"
        seconds = time.perf_counter() - start
    print(f"{job}: {seconds:.1f} s", flush=True)
    return seconds


def trial(job, name, seed, seconds, reference, folder):
    """Send a signal at a random moment, run the job again, and compare."""
    rng = np.random.default_rng([seed, *job.encode(), *name.encode()])
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        moment = rng.uniform(0.05, 0.95) * seconds
        pid = started(job, folder)
        time.sleep(moment)
        os.kill(pid, SIGNALS[name])
        code = exit_code(pid)
        swallowed = code == 0 and (folder / "received").exists()
        if code != 0 or swallowed:
            break  # otherwise the job finished before the signal
    assert code in (0, 130, -signal.SIGKILL), f"{job} ended with {code}"
    expected = rounds(reference)
    only_finished = all(lines == expected[file][: len(lines)] for file, lines in rounds(folder).items())
    assert exit_code(started(job, folder)) == 0, f"{job} failed after {name}"
    pairs = zip(result_of(folder), result_of(reference), strict=True)
    return {
        "job": job,
        "signal": name,
        "seed": seed,
        "moment": round(moment, 3),
        "reached the caller": not swallowed,
        "only finished rounds recorded": only_finished,
        "resumed result equal": all(np.array_equal(a, b) for a, b in pairs) and rounds(folder) == expected,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("kills"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/kills.csv"))
    parser.add_argument("--trials", type=int, default=6, help="number of trials per job and signal")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    log = args.folder / "trials.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for job in JOBS:
        wanted = [(name, seed) for name in SIGNALS for seed in range(args.trials)]
        wanted = [key for key in wanted if (job, *key) not in {(t["job"], t["signal"], t["seed"]) for t in done}]
        if not wanted:
            continue
        reference = args.folder / "undisturbed"
        seconds = undisturbed(job, reference)
        for name, seed in wanted:
            done.append(trial(job, name, seed, seconds, reference, args.folder / "trial"))
            with open(log, "a") as file:
                file.write(json.dumps(done[-1]) + "\n")
            print(done[-1], flush=True)
    trials = pd.DataFrame(done)
    checks = ["reached the caller", "only finished rounds recorded", "resumed result equal"]
    table = trials.groupby(["signal", "job"], sort=False)[checks].sum().astype(int)
    table.insert(0, "trials", trials.groupby(["signal", "job"], sort=False).size())
    print(table.to_string())
    failed = trials[~trials[checks].all(axis=1)]
    assert failed.empty, f"{len(failed)} of {len(trials)} trials failed:\n{failed.to_string()}"
    args.output.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.output)


if __name__ == "__main__":
    main()
