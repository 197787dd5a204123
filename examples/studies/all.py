"""Reproduce any table or figure of the documentation.

    python examples/studies/all.py --list                        print their names and the data they need
    python examples/studies/all.py --table quickstart depth      reproduce these, and write them to docs/

Data that are not part of the project are read from ``--data`` (or $SKAL_DATA), under the names that ``--list`` prints:
images in class folders (scenes15/train and scenes15/test), arrays X_train, y_train, X_test, y_test (cifar10.npz), and
state dicts (mobilenet_v2.pth). imagenet/ has one image per class and labels.csv, as for make_source_profile.py.

A stopped run resumes: results are stored in ``--work``, one folder per version of the code. When a table is done, its
files are copied to docs/results, and the line above it names the version of the code that produced it.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import skal

ROOT = Path(__file__).parents[2]
#: The line above a table, such as ``*`strategies`: skal 0.1.0, code of 853b39e.*``
MADE_WITH = re.compile(r"^\*`(?P<name>[\w/.]+)`: skal (?P<version>\S+), code of (?P<code>\w+\+?)\.\*$", re.M)

MOBILENET = "--backbone mobilenet_v2 --weights {data}/mobilenet_v2.pth"
SQUEEZENET = "--backbone squeezenet1_1 --weights {data}/squeezenet1_1.pth"
PROFILED = f"{MOBILENET} --profile {{work}}/profile.safetensors"
DIGITS = "{data}/mnist.npz {data}/usps.npz"


class Study(NamedTuple):
    """How a table is produced.

    Parameters
    ----------
    commands : list of str
        Arguments for Python, where ``{data}`` and ``{work}`` are folders.
    files : dict of str to str
        Maps files in the working folder to files in docs/results.
    """

    commands: list[str]
    files: Mapping[str, str]

    @property
    def needs(self) -> list[str]:
        """Names required in the data folder."""
        return sorted(set(re.findall(r"\{data\}/([\w.]+)", " ".join(self.commands))))


def study(name: str, arguments: str) -> str:
    """Command of a study in this folder."""
    return f"examples/studies/{name}.py {arguments}"


def profile(size: int, options: str = "") -> str:
    """Command that makes the profile of MobileNetV2 at a given image size."""
    output = "--output {work}/profile.safetensors"
    return study("make_source_profile", f"{{data}}/imagenet {MOBILENET} --image-size {size} {options} {output}")


def baselines() -> list[str]:
    """skal against scikit-learn on the same features: random and queried labels, two networks, many classes, pairs."""
    mobilenet, squeezenet = f"{MOBILENET} --image-size 97", f"{SQUEEZENET} --image-size 99"

    def task(name: str, data: str = "", network: str = mobilenet) -> str:
        return f'--name "{name}" {data or f"--images {{data}}/{name}"} {network}'

    cifar10, caltech, few = "--arrays {data}/cifar10.npz", "--images {data}/caltech101", "--labels 1 2 5 10 --seeds 2"
    scenes, textures = task("scenes15"), task("textures10")
    cat_dog = task("cifar10 cat/dog", f"{cifar10} --classes 3 5")
    runs = [
        *(f"--seeds 3 {run}" for run in (scenes, textures)),
        f"--seeds 10 {cat_dog}",
        f"--seeds 3 {task('caltech101 crayfish/lobster', f'{caltech} --classes crayfish lobster')}",
        "--seeds 10 --name usps --arrays {data}/usps.npz --lenet {data}/mnist.npz",
        *(f"{few} {task(name, network=squeezenet)}" for name in ("scenes15", "textures10")),
        f"{few} {task('cifar10', cifar10)}",
        f"{few} {mobilenet}",
        f"--labels 1 2 --seeds 2 {task('caltech101')}",
    ]
    for chosen_by in ("uherding", "margin"):
        chosen = f"--probes --chosen-by {chosen_by} --labels 2 5 10 --seeds 3"
        runs += [f"{chosen} {run}" for run in (scenes, textures, cat_dog)]
    runs += [f"--probes --chosen-by anywhere --labels 1 2 5 10 --seeds 3 {run}" for run in (scenes, textures, cat_dog)]
    runs += [
        f"--seeds 3 {task('cifar10 car/truck', f'{cifar10} --classes 1 9')}",
        "--seeds 10 --name mnist --arrays {data}/mnist.npz --lenet {data}/usps.npz",
    ]
    output = "--output {work}/records.csv"
    tables = study("baselines", f"{output} --tables {{work}}/tables")
    return [*(study("baselines", f"{run} {output}") for run in runs), tables]


def penalty_runs() -> list[str]:
    """Random labels of five tasks, and labels that strategies have chosen of three."""
    tasks = [
        f"--name {name} --images {{data}}/{name} {MOBILENET} --image-size 97" for name in ("scenes15", "textures10")
    ]
    tasks.append(f'--name "cifar10 cat/dog" --arrays {{data}}/cifar10.npz --classes 3 5 {MOBILENET} --image-size 97')
    digits = [
        f"--name {one} --arrays {{data}}/{one}.npz --lenet {{data}}/{other}.npz"
        for one, other in (("usps", "mnist"), ("mnist", "usps"))
    ]
    chosen = [f"{task} --labels 2 5 10 --chosen-by {by}" for by in ("uherding", "margin") for task in tasks]
    return [*tasks, *digits, *chosen]


STUDIES = {
    "quickstart": Study(
        ["examples/quickstart.py --rounds 10 --seeds 3 --output {work}/fashion"],
        {f"fashion/{name}": f"fashion/{name}" for name in ("learning_curve.png", "queried.png", "queried.csv",
                                                         "records.csv", "table.csv")},
    ),
    "baselines": Study(
        baselines(),
        {"records.csv": "baselines/records.csv", "tables/table.csv": "baselines/table.csv",
         "tables/summary.csv": "baselines/summary.csv"},
    ),
    "penalty": Study(
        [*(study("penalty", f"{run} --seeds 3 --output {{work}}/penalty.csv") for run in penalty_runs()),
         study("penalty", "--output {work}/penalty.csv --table {work}/table.csv")],
        {"penalty.csv": "baselines/penalty.csv", "table.csv": "baselines/penalty_table.csv"},
    ),
    "depth": Study(
        [study("depth", f"--name scenes15 --images {{data}}/scenes15 {run} {labels} --output {{work}}/depth.csv")
         for run in (f"{MOBILENET} --image-size 97", f"{SQUEEZENET} --image-size 99 --n-frozen 0 6 12 17 22")
         for labels in ("--seeds 5", "--labels all --seeds 2")]
        + [study("depth", "--labels --output {work}/depth.csv --table {work}/table.csv --figure {work}/depth.png")],
        {"depth.csv": "depth.csv", "table.csv": "depth_table.csv", "depth.png": "depth.png"},
    ),
    "all_labels": Study(
        [study("all_labels", f"--name {name} --images {{data}}/{name} {run} --seeds 2 --rates 0.003 0.01 "
                             "--output {work}/all_labels.csv")
         for run in (f"{MOBILENET} --image-size 97", f"{SQUEEZENET} --image-size 99")
         for name in ("scenes15", "textures10")]
        + [study("all_labels", "--output {work}/all_labels.csv --table {work}/table.csv")],
        {"all_labels.csv": "all_labels.csv", "table.csv": "all_labels_table.csv"},
    ),
    "bad_pools": Study(
        [study("bad_pools", f"--images {{data}}/scenes15 --strangers {{data}}/textures10 {MOBILENET} --image-size 97 "
                            f"--seeds 3 {options} --output {{work}}/bad_pools.csv")
         for options in ("", "--fine-tune --labels 2")]
        + [study("bad_pools", "--output {work}/bad_pools.csv --strangers {data}/textures10 --table {work}/table.csv")],
        {"bad_pools.csv": "pool/bad_pools.csv", "table.csv": "pool/bad_pools_table.csv"},
    ),
    "pool_curves": Study(
        [study("pool_curves", f"--name {name} --images {{data}}/{name} {MOBILENET} --image-size 97 {options} "
                              "--output {work}/curves")
         for name, options in (("scenes15", "--seeds 3"), ("textures10", "--seeds 3"),
                               ("scenes15", "--fine-tune --strategy UHerding --seeds 2"),
                               ("textures10", "--fine-tune --strategy UHerding --seeds 2"))]
        + [study("pool_curves", "--output {work}/curves --table {work}/table.csv --figure {work}/curves.png")],
        {"table.csv": "pool/curves.csv", "curves.png": "pool/curves.png"},
    ),
    "grid_search": Study([study("grid_search", "--compare --output {work}/grid")], {}),
    "adma": Study(
        [profile(97, "--two-patterns"),
         study("adma_study", f"--images {{data}}/scenes15 {PROFILED} --image-size 97 --two-patterns --rounds 10 "
                             "--batch 15 --seeds 2 --output {work}/study")],
        {f"study/{name}": f"scenes15_study/{name}" for name in (
            "areas.csv", "accuracy.csv", "macro_auc.csv", "records.csv", "curves.png", "queried.png")},
    ),
    "distinctive_fashion": Study(
        [study("distinctive_batches", "--sizes 50 150 --output {work}/batches.csv")],
        {"batches.csv": "distinctive_batches_fashion.csv"},
    ),
    "distinctive_scenes15": Study(
        [profile(129), study("distinctive_batches", f"--images {{data}}/scenes15 {PROFILED} --image-size 129 "
                                                    "--output {work}/batches.csv")],
        {"batches.csv": "distinctive_batches_scenes15.csv"},
    ),
    "strategies": Study(
        [profile(97), *(study("compare_strategies", f"{run} --probe --seeds 3 --test 1000 --output {{work}}/tables")
                        for run in (
            f"--name scenes15 --images {{data}}/scenes15 {PROFILED} --image-size 97 --batch 15",
            f"--name usps --digits {DIGITS} --pool 2000"))],
        {f"tables/{name}": f"strategies/{name}" for name in (
            "areas.csv", "ranks.csv", "needed.csv", "seconds.csv", "curves.png", "scenes15.csv", "usps.csv")},
    ),
    "exploration_cifar10": Study(
        [study("continuous_exploration", "--npz {data}/cifar10.npz --known 5 --novel 5 --steps 12 --iterations 50 "
                                         "--initialisations 5 --output {work}/exploration")],
        {"exploration/records.csv": "exploration_cifar10/records.csv",
         "exploration/table.csv": "exploration_cifar10/table.csv",
         "exploration/exploration.png": "exploration_cifar10/curves.png"},
    ),
    "exploration_caltech101": Study(
        [study("continuous_exploration", "--images {data}/caltech101 --resnet20 {data}/resnet20.pth --per-class 14 "
                                         "--set-size 5 --steps 15 --iterations 80 --lr 0.003 --initialisations 5 "
                                         "--output {work}/exploration")],
        {"exploration/records.csv": "exploration_caltech101/records.csv",
         "exploration/table.csv": "exploration_caltech101/table.csv",
         "exploration/exploration.png": "exploration_caltech101/curves.png"},
    ),
    "selective_scenes15": Study(
        [study("selective_joint", f"--target {{data}}/scenes15 --source {{data}}/caltech101 {MOBILENET} "
                                  "--image-size 97 --n-frozen 34 --output {work}/selective")],
        {"selective/records.csv": "selective/scenes15_records.csv", "selective/table.csv": "selective/scenes15.csv"},
    ),
    "selective_usps": Study(
        [study("selective_joint", "--digits {data}/usps.npz {data}/mnist.npz --output {work}/selective")],
        {"selective/records.csv": "selective/usps_records.csv", "selective/table.csv": "selective/usps.csv"},
    ),
    "domain_shift": Study(
        [study("domain_shift", f"--digits {DIGITS} --output {{work}}/shift"),
         study("domain_shift", "--digits {data}/usps.npz {data}/mnist.npz --output {work}/shift"),
         study("domain_shift", '--name "15 scenes to grey thumbnails" --images {data}/scenes15 '
                               f"{MOBILENET} --image-size 97 --images-used 300 --seeds 4 --output {{work}}/shift")],
        {f"shift/{name}": f"domain_shift/{name}" for name in (
            "table.csv", "shift.png", "mnist to usps.csv", "usps to mnist.csv", "15 scenes to grey thumbnails.csv")},
    ),
    "person_time": Study(
        [study("person_time", f"--images {{data}}/{images} --seeds 4 --cache {{work}}/cache "
                              "--output {work}/person_time.csv") for images in (
            "textures10 --name textures10", "scenes15/train --name scenes15",
            "caltech101 --name caltech101-20 --n-classes 20")]
        + [study("person_time", "--output {work}/person_time.csv --table")],
        {"person_time.csv": "person_time.csv", "person_time_table.csv": "person_time_table.csv"},
    ),
    "scale": Study(
        [study("scale", "--features {work}/features.npy --output {work}/scale.csv"),
         study("scale", "--features {work}/features.npy --output {work}/scale.csv --sizes 1000000 --dask "
                        "--strategies max_herding --table {work}/table.csv --figure {work}/scale.png")],
        {"scale.csv": "scale/scale.csv", "table.csv": "scale/table.csv", "scale.png": "scale/scale.png"},
    ),
    "kills": Study(
        [study("kills", "--folder {work}/kills --output {work}/kills.csv")],
        {"kills.csv": "kills.csv"},
    ),
}  # fmt: skip


def code_version(root: Path = ROOT) -> str:
    """The last commit that changed skal/, with a plus if there are uncommitted changes. Without git, the release."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("log", "-1", "--format=%h", "--", "skal") + ("+" if git("status", "--porcelain", "skal") else "")
    except (OSError, subprocess.CalledProcessError):
        return skal.__version__.replace(".", "_")


def mark(name: str, code: str, pages: Path) -> None:
    """Write the version of the code to the lines above a table."""
    line = f"*`{name}`: skal {skal.__version__}, code of {code}.*"
    for page in sorted(pages.glob("*.md")):
        text = page.read_text("utf-8")
        marked = MADE_WITH.sub(lambda found: line if found["name"] == name else found[0], text)
        if marked != text:
            page.write_text(marked, "utf-8")


def remake(name: str, data: Path, work: Path, pages: Path) -> None:
    """Run the remaining commands of a study, and copy its files to the documentation."""
    missing = [need for need in STUDIES[name].needs if not (data / need).exists()]
    if missing:
        raise SystemExit(f"{name} needs {', '.join(missing)} in {data}; set the folder with --data")
    code = code_version()
    folder = work / code / name
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "done.txt"
    done = log.read_text("utf-8").splitlines() if log.exists() else []
    for command in STUDIES[name].commands:
        if command not in done:
            arguments = [part.format(data=data.resolve(), work=folder.resolve()) for part in shlex.split(command)]
            print("+ python", shlex.join(arguments), flush=True)
            subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{command}\n")
    for made, shown in STUDIES[name].files.items():
        target = pages / "results" / shown
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / made, target)
    mark(name, code, pages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the names of the studies and the data they need")
    parser.add_argument("--table", nargs="+", default=[], choices=STUDIES, metavar="NAME", help="studies to run")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SKAL_DATA", "data")))
    parser.add_argument("--work", type=Path, default=Path("studies_work"))
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder for the tables and figures")
    args = parser.parse_args()
    if not args.list and not args.table:
        parser.error("use --list or --table NAME")
    if args.list:
        for name, listed in STUDIES.items():
            print(f"{name:24}{', '.join(listed.needs) or '(nothing more)'}")
    for name in args.table:
        remake(name, args.data, args.work, args.docs)


if __name__ == "__main__":
    main()
