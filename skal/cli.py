"""The command ``skal``: label a folder, show the status of a project, predict, export."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from skal.label import fitting
from skal.label.audit import FEWEST, SHARE, fewest_to_accept
from skal.label.folder import read_fingerprint
from skal.label.opening import expected_reserve, find_images
from skal.label.project import Settings, find_settings, predict_command, project_beside
from skal.label.report import Status, in_percent
from skal.label.sources import Found, read_labels
from skal.label.stopping import highest_target
from skal.label.stored import FORMATS, StoredProject, load_predictor
from skal.label.tables import write_rows

if TYPE_CHECKING:  # imports more than read-only commands need
    from skal.label.predictor import Predictor
    from skal.label.session import LabelSession

_BLOCK = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str or None, default=None
        None uses those of the process.

    Returns
    -------
    code : int
        0 on success, 1 if files could not be predicted or exported, 2 if the command failed.
    """
    args = _parser().parse_args(arguments)
    try:
        return int(args.run(args))
    except (ValueError, OSError, ImportError) as error:  # a full disk is reported in one line too
        words = getattr(error, "on_command_line", str(error))
        print(f"skal: {' '.join(words.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skal", description="Label images and train a model with a measured accuracy."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    label = commands.add_parser("label", help="label a folder of images in the browser")
    label.add_argument("folder", metavar="FOLDER", help="folder of images, with subfolders; never modified")
    label.add_argument("--project", metavar="DIR", help="folder for the labels and the model (default: FOLDER.skal)")
    label.add_argument("--classes", nargs="+", default=[], metavar="NAME", help="initial class names")
    label.add_argument("--backbone", help=f"torchvision name or timm:NAME (default: {fitting.DEFAULT_BACKBONE})")
    label.add_argument("--weights", help="state-dict file, or name of torchvision weights")
    label.add_argument(
        "--image-size",
        type=int,
        help=f"side of the network's input in pixels (default: {fitting.DEFAULT_SIZE} for {fitting.DEFAULT_BACKBONE}, "
        "otherwise the network's own)",
    )
    label.add_argument(
        "--strategy",
        choices=Strategies(),
        metavar="NAME",
        help="query strategy that chooses the next images: %(choices)s (default: uherding)",
    )
    label.add_argument("--batch-size", type=int, default=10, help="answers per model update (default: %(default)s)")
    label.add_argument("--audit", type=float, help=f"share of audit questions (default: the project's, {SHARE} if new)")
    label.add_argument("--target", type=float, help="target accuracy, such as .95")
    label.add_argument(
        "--follow-links",
        action=argparse.BooleanOptionalAction,
        help="follow links that leave the folder (default: the project's, off if new)",
    )
    label.add_argument(
        "--import", dest="labels", metavar="SOURCE", help="import labels: CSV, Label Studio JSON or class folders"
    )
    label.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    label.add_argument(
        "--port", type=int, default=0, help="port to listen on (default: a free one, the same each time if possible)"
    )
    label.add_argument("--allow-remote", action="store_true", help="allow a --host that other machines can reach")
    label.add_argument("--no-browser", action="store_true", help="do not open a browser")
    label.set_defaults(run=_label)

    status = commands.add_parser("status", help="show the status of a project")
    status.add_argument("project", metavar="PROJECT", help="project folder, such as photos.skal")
    status.set_defaults(run=_status)

    predict = commands.add_parser("predict", help="predict the classes of the images in a folder")
    predict.add_argument(
        "model", metavar="PROJECT_OR_MODEL", help="project folder, or folder of a model written by skal export"
    )
    predict.add_argument("folder", metavar="FOLDER", help="folder of images to predict, with subfolders")
    predict.add_argument("--follow-links", action="store_true", help="follow links that leave the folder")
    predict.add_argument("--output", required=True, metavar="FILE.csv", help="file to write; replaced if it exists")
    predict.set_defaults(run=_predict)

    export = commands.add_parser("export", help="export the labels or the model for other programs")
    export.add_argument("project", metavar="PROJECT", help="project folder, such as photos.skal")
    export.add_argument(
        "--format",
        required=True,
        choices=FORMATS,
        help="csv, imagefolder and labelstudio export labels; model and onnx the model",
    )
    export.add_argument(
        "--output",
        required=True,
        metavar="PATH",
        help="file for csv and labelstudio, otherwise folder; must be new or empty",
    )
    export.set_defaults(run=_export)
    return parser


class Strategies:
    """Names of the strategies that need only the images. They are imported, with torch, only if one is named."""

    def __iter__(self) -> Iterator[str]:
        from skal.query import STRATEGIES

        return (name for name, strategy in STRATEGIES.items() if not strategy.needs_source)


def _label(args: argparse.Namespace) -> int:
    from skal.label.server import Server, open_browser
    from skal.label.session import LabelSession

    # One core serves the page, the others train. PyTorch reads this when it is imported, in the background.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) - 1)))
    path = Path(os.path.abspath(args.project)) if args.project else project_beside(args.folder)
    stored = find_settings(path)
    before = {} if stored is None else stored.network
    is_file = args.weights is not None and os.path.exists(args.weights)
    weights = os.path.abspath(args.weights) if is_file else args.weights  # found again from any folder
    given = {"backbone": args.backbone, "weights": weights, "image_size": args.image_size}
    named = {name: value for name, value in given.items() if value is not None}
    network = named if args.backbone else {**before, **named}  # weights and size of another network do not apply
    fitting.check_network(network)
    query = None
    if args.strategy is not None:
        from skal.query import STRATEGIES

        query = STRATEGIES[args.strategy].function
    labels = read_labels(args.labels) if args.labels else Found([], {})
    session = LabelSession(
        args.folder,
        path,
        classes=args.classes,
        query=query,
        batch_size=args.batch_size,
        audit=args.audit,
        target=args.target,
        follow_links=args.follow_links,
        network=network or None,
    )
    with session:
        was, now = fitting.name_of(before), fitting.name_of(network)
        if stored is not None and was != now:
            print(f"The network changes from {was} to {now}. A new model is trained now and replaces the previous one.")
        if labels.pairs:
            counts = session.import_labels(labels.pairs, str(args.labels))
            print(f"Labels of {args.labels}: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
            for reason, n in labels.left_out.items():
                print(f"Left out of {args.labels}: {n} ({reason})")
            if counts["waiting"]:
                print("Waiting labels are imported in the background while the images are read.")
            if counts["unknown"]:
                print(f"Unknown labels have a path that is not an image in {args.folder}.")
        server = Server(session, host=args.host, port=args.port, allow_remote=args.allow_remote)
        for line in [*_greeting(session.status(), path), *_warning(session.settings)]:
            print(line)
        if args.allow_remote:
            print(f"Other machines can see the images and change the labels with this link:\n  {server.url}")
        print(f"Open the page from this file: {server.link}\nPress Ctrl-C to stop; every answer is saved immediately.")
        if not args.no_browser:
            open_browser(server.link)
        try:
            server.run()
        finally:  # also after Ctrl-C, the usual way to stop
            _end(session, path)
    return 0


def _end(session: LabelSession, path: Path) -> None:
    """Train on the last answers and print the next steps."""
    status = session.status()
    if status.n_newer and sum(n > 0 for n in status.per_class.values()) > 1:
        print("\nTraining the model on the last answers; press Ctrl-C again to skip this.", flush=True)
        try:
            session.fit()
        except ValueError as error:
            print(f"skal: {error}", file=sys.stderr)
        status = session.status()
    print(f"\n{status.n_labels} labels are saved in {path}")
    if status.model:
        for line in _newer(status.n_newer):
            print(line)
        print(f"To use the model: {predict_command(path)}\nFor other programs: skal export --help")


def _newer(n: int) -> list[str]:
    """A note that the model lacks the last answers, as after a crash or a second Ctrl-C."""
    answers = "1 newer answer is" if n == 1 else f"{n} newer answers are"
    return [f"{answers} not in this model; skal label trains on new answers when it stops"] if n else []


def _greeting(status: Status, path: Path) -> list[str]:
    lines = [f"Labels are saved in {path}"]
    phones = sum(reason.startswith("HEIC") for _, reason in status.unreadable)
    if phones:
        lines.append(f"{phones} HEIC files are left out; to include them, pip install pillow-heif")
    lines += _links(status)
    lines += [f"The log was damaged: {words}" for words in status.set_aside]
    return lines


def _links(status: Status) -> list[str]:
    n = len(status.links)
    return [f"links that leave the folder, left out: {n}; skal label --follow-links includes them"] if n else []


def _warning(settings: Settings) -> list[str]:
    """A warning if no audit of this folder could confirm the target."""
    if settings.target is None or settings.looks:
        return []
    highest = highest_target(expected_reserve(settings))
    lower = f", or start again with --target {highest:.2f} or less before the first audit answer" if highest else ""
    return [
        f"{settings.n_listed} images are too few to test the target of {in_percent(settings.target)}: the accuracy is "
        f"shown with its interval, but the target is not tested. Add images and start a new project{lower}."
    ]


def _status(args: argparse.Namespace) -> int:
    for line in describe(StoredProject(args.project).status()):
        print(line)
    return 0


def describe(status: Status) -> list[str]:
    """A status as readable lines."""
    recalls = {
        found.label: f", recall {_rounded(found.recall)} on {found.n} audit images (interval {_range(found.interval)})"
        for found in status.recalls
    }
    lines = [
        f"{status.n_images} images, {status.n_labels} labels, {status.n_unsure} unsure, {status.n_conflicts} conflicts",
        *(f"  {name}: {n}{recalls.get(name, '')}" for name, n in status.per_class.items()),
        f"audit: {status.n_audit} of {status.n_reserved} reserved images answered",
    ]
    if status.not_used:
        lines.append("imported labels not used: " + ", ".join(f"{n} {why}" for why, n in status.not_used.items()))
    if status.accuracy is None or status.interval is None:
        lines.append(f"accuracy: not available yet. {status.accuracy_hint}")
    else:
        lines.append(
            f"accuracy: {_rounded(status.accuracy)}, 95 % interval {_range(status.interval)}: agreement with your "
            f"labels on {status.n_audit} images of this folder that were drawn at random; no model learns these labels"
        )
        lines.append(_acceptance(status))
    if status.unreadable:
        lines.append(
            f"files that cannot be labelled: {len(status.unreadable)}, such as {': '.join(status.unreadable[0])}"
        )
    return [*lines, *_links(status), *(_newer(status.n_newer) if status.model else []), status.stop_hint]


def _acceptance(status: Status) -> str:
    """The confidence above which predictions are right often enough, or what is missing to name one."""
    target, found, surest = status.target or 0.95, status.acceptance, status.surest
    if found is not None:
        return (
            f"Of the predictions with a confidence above {in_percent(found.confidence)}, at least {in_percent(target)} "
            f"are right, as the audit shows. They are {_rounded(found.share)} of the audit images."
        )
    assert surest is not None  # known whenever an accuracy is
    n, fewest = surest.n, fewest_to_accept(target)
    missing = f"; at least {fewest} are needed" if n < fewest else ", which is not enough"
    return (
        f"{n} audit answers have a confidence above {in_percent(surest.confidence)}, {surest.n_right} of them right"
        f"{missing} to show {in_percent(target)}."
    )


def _range(interval: tuple[float, float]) -> str:
    return f"{_rounded(interval[0])} to {_rounded(interval[1])}"


def _rounded(share: float) -> str:
    return f"{100 * share:.1f} %"


def _predict(args: argparse.Namespace) -> int:
    if os.path.isdir(args.output):
        raise ValueError(f"--output {args.output!r} is a folder; choose a file")
    if not Path(args.output).absolute().parent.is_dir():
        raise ValueError(f"the folder of --output {args.output!r} does not exist")
    folder = Path(args.folder)
    _, paths, left_out = find_images(folder, args.follow_links)
    predictor = load_predictor(args.model)
    temporary = Path(f"{args.output}.part")
    try:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            failed = _write_predictions(file, predictor, folder, sorted(paths))
        was_there = os.path.exists(args.output)
        os.replace(temporary, args.output)
    finally:
        temporary.unlink(missing_ok=True)
    n, unreadable = len(paths) - len(failed), [*left_out, *failed]
    for path, reason in unreadable:
        print(f"not predicted: {path}: {reason}", file=sys.stderr)
    print(f"{n} images predicted, {len(unreadable)} left out; written to {args.output}")
    if was_there:
        print(f"Replaced {args.output}")
    if predictor.temperature is None:
        print(f"Probabilities are not calibrated: calibration requires {FEWEST} audit answers.")
    else:
        print(f"Probabilities are calibrated on the audit answers (temperature {predictor.temperature:.2f}).")
    for line in _newer(predictor.n_newer):
        print(line)
    return 1 if unreadable else 0


def _write_predictions(
    file: IO[str], predictor: Predictor, folder: Path, paths: Sequence[str]
) -> list[tuple[str, str]]:
    """Write a line per image, block by block. Returns the files that cannot be read, with reasons."""
    unreadable = []
    classes = predictor.classes
    write_rows(file, [predictor.columns])
    for start in range(0, len(paths), _BLOCK):
        readable, contents = [], []
        for path in paths[start : start + _BLOCK]:
            try:
                contents.append(read_fingerprint(folder / path).content)
                readable.append(path)
            except ValueError as error:
                unreadable.append((path, str(error)))
        if readable:
            confidence, proba = predictor.predict([str(folder / path) for path in readable])
            found = zip(readable, contents, confidence.tolist(), proba.tolist(), strict=True)
            for path, content, own, row in found:
                k = own.index(max(own))
                yours = [] if predictor.labels is None else [predictor.labels.get(content, "")]
                shares = [f"{share:.6f}" for share in (own[k], row[k], *row)]
                write_rows(file, [(path, classes[k], *yours, *shares)])
    return unreadable


def _export(args: argparse.Namespace) -> int:
    project = StoredProject(args.project)
    project.check_export(args.format, args.output)
    if args.format == "onnx":
        print("Exporting takes about half a minute.", flush=True)
    n = project.export(args.format, args.output)
    if args.format in ("model", "onnx"):
        n_audit = sum(why == "audit" for _, _, _, why in project.rows())
        print(f"model trained on {n} labels; {n_audit} more measure it: {args.output}")
        for line in _newer(project.n_newer):
            print(line)
        return 0
    print(f"{n} labels: {args.output}")
    n_missing = sum(1 for _ in project.rows()) - n
    if n_missing:
        print(f"labels left out because their files no longer exist: {n_missing}", file=sys.stderr)
    return 1 if n_missing else 0


if __name__ == "__main__":
    sys.exit(main())
