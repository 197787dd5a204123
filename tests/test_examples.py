"""Every study is imported and its main runs at toy size: a few tiny images, a tiny network, two rounds, one seed."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from skal import FrozenPrefixClassifier, SourceProfile
from skal._random import seeded
from tests.conftest import SMALL, TinyConvNet, with_statistics

EXAMPLES = Path(__file__).parent.parent / "examples"
FOLDERS = {
    path.stem: path.parent
    for path in (*EXAMPLES.glob("studies/*.py"), EXAMPLES / "quickstart.py")
    if path.stem not in ("_common", "all", "kills")  # kills.py forks and takes minutes: .ci/nightly runs it
}
LOOP = ["--rounds", "2", "--batch", "3", "--seeds", "1"]


@pytest.fixture
def example(monkeypatch):
    """Imports an example with a toy network that is trained for two steps."""
    matplotlib = pytest.importorskip("matplotlib")
    with seeded(0):
        net = with_statistics(TinyConvNet())

    def network(backbone="toy", weights=None, image_size=None):
        return {"backbone": net, "preprocess": SMALL}

    def quick(*args, max_epochs=30, **kwargs):
        return FrozenPrefixClassifier(*args, **kwargs | {"max_epochs": min(max_epochs, 1), "min_steps": 2})

    def imported(name):
        module = importlib.import_module(name)
        if hasattr(module, "FrozenPrefixClassifier"):
            monkeypatch.setattr(module, "FrozenPrefixClassifier", quick)
        if hasattr(module, "network"):
            monkeypatch.setattr(module, "network", network)
        return module

    def forget():
        for name in FOLDERS:
            sys.modules.pop(name, None)

    for folder in set(FOLDERS.values()):
        monkeypatch.syspath_prepend(folder)
    forget()
    yield imported
    forget()
    matplotlib.pyplot.close("all")


@pytest.fixture
def run(example, monkeypatch, capsys):
    """Runs the main of an example with the given arguments, and returns what it prints."""

    def main(name, *arguments):
        module = example(name)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        module.main()
        return capsys.readouterr().out

    return main


@pytest.fixture
def images(files):
    """The toy images in class folders."""
    folder = Path(files[0][0]).parent / "images"
    for path, label in zip(*files, strict=True):
        (folder / label).mkdir(parents=True, exist_ok=True)
        Path(path).rename(folder / label / Path(path).name)
    return folder


@pytest.fixture
def toy_profile(example, tmp_path, source_images):
    """A source profile of the toy network, as a file."""
    network = example("quickstart").network
    profile = SourceProfile(**network(), layers=[(-4, -2), (-5, -2)]).fit(*source_images)
    profile.save(tmp_path / "profile.safetensors")
    return tmp_path / "profile.safetensors"


@pytest.fixture
def digits(tmp_path):
    """Two files of arrays: grey images of ten classes, one size per file."""
    files = []
    for seed, side in ((0, 28), (1, 16)):
        rng = np.random.default_rng(seed)
        y = np.arange(100) % 10
        X = (20 * y[:, None, None] + rng.integers(0, 40, size=(100, side, side))).astype(np.uint8)
        files.append(tmp_path / f"digits_{side}.npz")
        np.savez(files[-1], X_train=X, y_train=y, X_test=X[:20], y_test=y[:20])
    return files


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_an_example_says_how_it_is_run(example, name):
    module = example(name)
    assert module.__doc__
    if hasattr(module, "main"):
        assert f"{(FOLDERS[name] / name).relative_to(EXAMPLES.parent).as_posix()}.py" in module.__doc__


def test_quickstart(run, images, toy_profile, tmp_path):
    output = tmp_path / "quickstart"
    printed = run("quickstart", "--images", images, "--profile", toy_profile, "--strategy", "adma", "random", *LOOP,
                  "--full", "--output", output)  # fmt: skip
    assert "round 2 of 2, 6 labels: adma 0." in printed
    records = pd.read_csv(output / "records.csv")
    assert records.groupby("strategy")["n_labels"].apply(list).to_dict() == {
        "adma": [3, 6], "random": [3, 6], "logistic regression": [3, 6], "all labels": [28]
    }  # fmt: skip
    assert len(pd.read_csv(output / "queried.csv")) == 6
    assert {path.name for path in output.glob("*.png")} == {"learning_curve.png", "queried.png"}


def test_adma_study(run, images, toy_profile, tmp_path):
    output = tmp_path / "study"
    run("adma_study", "--images", images, "--profile", toy_profile, "--two-patterns", *LOOP, "--output", output)
    areas = pd.read_csv(output / "areas.csv")
    assert set(areas["strategy"]) == {
        "ADMA-distance",
        "ADMA-predict",
        "ADMA-2 mean",
        "ADMA-2 variance",
        "random",
        "margin",
    }
    for name in ("records.csv", "accuracy.csv", "macro_auc.csv", "curves.png", "queried.png", "sheet.png"):
        assert (output / name).stat().st_size


@pytest.mark.parametrize("chosen_by", ["random", "anywhere", "margin"])
def test_baselines(run, images, tmp_path, chosen_by):
    output = tmp_path / "records.csv"
    arguments = ["--images", images, "--labels", 2, "--seeds", 2, "--chosen-by", chosen_by, "--output", output]
    run("baselines", *arguments)
    rows = pd.read_csv(output)
    assert rows.groupby("method").size().to_dict() == dict.fromkeys(
        ("regression", "regression, centred", "label spreading", "self-training", "probe", "probe, pool", "skal",
         "skal, pool"), 2,
    )  # fmt: skip
    run("baselines", *arguments)  # nothing remains to be done
    pd.testing.assert_frame_equal(pd.read_csv(output), rows)
    run("baselines", "--output", output, "--tables", tmp_path)
    table, summary = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("table", "summary"))
    assert table["data"].tolist() == ["fashion_mnist"]
    assert "of 1 below)" in summary["skal, pool: over regression"][0]


@pytest.mark.parametrize("k", [1, 3])
def test_penalty(example, run, images, tmp_path, k):
    example("baselines")  # whose toy network it uses
    output, module = tmp_path / "penalty.csv", example("penalty")
    run("penalty", "--images", images, "--labels", k, "--seeds", 2, "--output", output)
    rows = pd.read_csv(output)
    run("penalty", "--output", output, "--table", tmp_path / "table.csv")
    wide = rows.pivot(index="seed", columns="method", values="accuracy")
    assert (wide["best"] == wide[[f"C = {value:g}" for value in module.C]].max(axis=1)).all()
    if k == 1:
        assert (wide[["cross-validated", "with a prior", "C = 1"]].sub(wide["rule"], axis=0) == 0).all(axis=None)
    assert pd.read_csv(tmp_path / "table.csv")["labels"].tolist() == [k]


def test_pool_curves(run, images, tmp_path):
    output = tmp_path / "curves"
    task = ["--images", images, "--rounds", 2, "--seeds", 1, "--output", output]
    run("pool_curves", *task, "--strategy", "UHerding", "random")
    run("pool_curves", *task, "--strategy", "UHerding", "--fine-tune")
    run("pool_curves", "--output", output, "--table", tmp_path / "table.csv", "--figure", tmp_path / "curves.png")
    table = pd.read_csv(tmp_path / "table.csv")
    assert table.groupby("classifier").size().to_dict() == {
        "logistic regression": 2, "skal's head": 2, "skal's head, pool": 2, "skal, pool": 1,
    }  # fmt: skip
    assert {"1", "2", "area", "90%", "95%", "99%"} < set(table)
    assert (tmp_path / "curves.png").stat().st_size


@pytest.mark.parametrize("kind", ["images", "npz", "digits"])
def test_compare_strategies(run, images, toy_profile, digits, tmp_path, kind):
    output = ["--output", tmp_path / "comparison"]
    with np.load(digits[0]) as data:
        np.savez(tmp_path / "rgb.npz", **{k: np.stack([v] * 3, -1) if "X" in k else v for k, v in data.items()})
    data = {
        "images": ["--images", images, "--image-size", 16, "--profile", toy_profile],
        "npz": ["--npz", tmp_path / "rgb.npz", "--profile", toy_profile, "--pool", 50, "--test", 10],
        "digits": ["--digits", *digits],
    }[kind]
    compared = ["adma", "margin, herding", "LR, random"]
    run("compare_strategies", "--name", kind, *data, "--strategy", *compared, *LOOP, "--ceilings", 1, *output)
    run("compare_strategies", "--tables", *output)
    assert set(pd.read_csv(tmp_path / "comparison" / "ranks.csv")["strategy"]) == set(compared)
    assert kind in pd.read_csv(tmp_path / "comparison" / "areas.csv")
    with pytest.raises(SystemExit, match="not found; choose from"):
        run("compare_strategies", *data, "--strategy", "best", *output)


def test_continuous_exploration(run, example, images, tmp_path):
    output = tmp_path / "exploration"
    sizes = ["--known", 2, "--novel", 2, "--per-class", 3, "--set-size", 3, "--steps", 2, "--initialisations", 1]
    training = ["--iterations", 2, "--first-iterations", 2]
    run("continuous_exploration", "--images", images, *sizes, *training, "--output", output)
    records = pd.read_csv(output / "records.csv")
    assert records.groupby("strategy")["n_labels"].apply(list).to_dict() == {
        name: [6, 9, 12] for name in ("EMOC", "min", "1-vs-2", "max", "random")
    }
    assert (output / "exploration.png").stat().st_size
    with seeded(0):
        assert example("continuous_exploration").ResNet20()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_distinctive_batches(run, images, toy_profile, tmp_path):
    run("distinctive_batches", "--images", images, "--profile", toy_profile, "--sizes", 4, "--seeds", 1,
        "--output", tmp_path / "batches.csv")  # fmt: skip
    table = pd.read_csv(tmp_path / "batches.csv")
    assert table["batch"].tolist() == ["most distinctive", "least distinctive", "random"] * 2
    assert table["classes"].between(1, 4).all()


@pytest.mark.parametrize("kind", ["digits", "images"])
def test_domain_shift(run, example, monkeypatch, images, digits, tmp_path, kind):
    monkeypatch.setattr(example("domain_shift"), "QUERIED", ("random", "mmd"))
    monkeypatch.setattr(example("domain_shift"), "SHARES", (0.1, 0.3))
    data = ["--digits", *digits] if kind == "digits" else ["--images", images, "--image-size", 16]
    output = tmp_path / "shift"
    run("domain_shift", *data, "--seeds", 1, "--images-used", 60, "--output", output)
    (file,) = (path for path in output.glob("*.csv") if path.stem != "table")
    records = pd.read_csv(file)
    assert records.groupby("method")["share"].apply(list).to_dict() == {
        "source only": [0.0],
        "DAN, uniform": [0.0],
        "DAN, optimal": [0.0],
        "DAN + random": [0.1, 0.3],
        "DAN + mmd": [0.1, 0.3],
    }
    run("domain_shift", "--tables", "--output", output)
    assert (output / "shift.png").stat().st_size


def test_grid_search(run, images, toy_profile, tmp_path):
    for label in "rgby":  # pool and test images in separate folders
        for path in sorted((images / label).iterdir()):
            part = images / ("test" if path.stem < "04" else "train") / label
            part.mkdir(parents=True, exist_ok=True)
            path.rename(part / path.name)
    grid = ["--lam", 0, 1, "--trainable", 1, "--queries", 2, "--batch", 3, "--images-used", 40, "--compare"]
    printed = run("grid_search", "--images", images, "--profile", toy_profile, *grid, "--output", tmp_path / "grid")
    assert len(pd.read_csv(tmp_path / "grid" / "grid.csv")) == 2
    assert "with 6 labels" in printed
    assert "one split: " in printed
    assert "s with the cache, " in printed


def test_make_source_profile(run, images, tmp_path):
    files = sorted(path.relative_to(images) for path in images.glob("*/*"))
    pd.DataFrame({"file": files, "name": [file.parent for file in files]}).assign(
        label=[sorted("rgby").index(str(file.parent)) for file in files]
    ).to_csv(images / "labels.csv", index=False)
    run(
        "make_source_profile", images, "--two-patterns", "--dtype", "float16", "--output", tmp_path / "made.safetensors"
    )
    profile = SourceProfile.load(tmp_path / "made.safetensors")
    assert profile.class_names_ == ["b", "g", "r", "y"]
    assert profile.layers_ == [(-4, -2), (-5, -2)]


def test_scale(run, example, tmp_path):
    module, features, output = example("scale"), tmp_path / "features.npy", tmp_path / "scale.csv"
    module.write_features(features, 1000)
    X = np.load(features)
    assert X.shape == (1000, 512)
    assert len(np.unique(X, axis=0)) == 1000
    arguments = ["--features", features, "--sizes", 300, 1000, "--strategies", "margin", "--output", output]
    run("scale", *arguments)
    rows = pd.read_csv(output)
    assert rows[["strategy", "images"]].values.tolist() == [["margin", 300], ["margin", 1000]]
    assert (rows[["seconds", "MiB"]] >= 0).all(axis=None)
    run("scale", *arguments, "--table", tmp_path / "table.csv", "--figure", tmp_path / "scale.png")
    pd.testing.assert_frame_equal(pd.read_csv(output), rows)
    assert "1,000 images (s)" in pd.read_csv(tmp_path / "table.csv")
    assert (tmp_path / "scale.png").stat().st_size > 0
    assert all(number >= 0 for number in module.query(features, "coreset", 300, dask=True))


@pytest.mark.parametrize("kind", ["digits", "images"])
def test_selective_joint(run, images, digits, tmp_path, kind):
    source = Path(f"{images}_source")
    for label, blue in {"u": 200, "v": 0}.items():
        (source / label).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (20, 16), (30 * i, 90, blue)).save(source / label / f"{i}.png")
    folders = ["--target", images, "--source", source, "--image-size", 16]
    data = ["--digits", *digits] if kind == "digits" else folders
    output = tmp_path / "selective"
    run("selective_joint", *data, "--neighbors", 3, "--seeds", 1, "--labels", 2, "--output", output)
    records = pd.read_csv(output / "records.csv").set_index("method")
    assert set(records.index) == set(pd.read_csv(output / "table.csv")["method"])
    assert records["borrowed"]["fine-tuning"] == 0 < records["borrowed"]["selective"]
    assert (output / "neighbors.png").stat().st_size
