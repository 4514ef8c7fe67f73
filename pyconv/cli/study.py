"""Run the lesson's experiments, or take up the ones that were left.

Each study trains a few networks, one after the other, measures them on both engines and writes
DIR/STUDY/table.md (beside the lesson's own figures), table.csv and curves.png. The networks are
kept in DIR/runs with their weights of every epoch as ONNX; studies share them, and what is there is
not trained again. Ctrl-C keeps the last finished epoch; the same command goes on. Needs the extra
'train'.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pyconv.cli.training_display import TrainingDisplay
from pyconv.errors import InputError

if TYPE_CHECKING:
    from pyconv.training import Epoch, Progress

HELP = "run the lesson's experiments"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    from pyconv.training.study.plan import STUDIES

    names = (*STUDIES, "activations", "best")
    parser.add_argument(
        "studies",
        nargs="+",
        choices=names,
        metavar="STUDY",
        help=f"one or several of {_list(names)}",
    )
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="train for N epochs (default: the study's own)"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="train every network N times, from other first weights (default: 1)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("studies"),
        metavar="DIR",
        help="folder for everything (default: studies)",
    )
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="use only the first N images of each split, to try it out (default: all)",
    )
    parser.add_argument(
        "--timing-seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="time each network's inference for S seconds a batch size; 0: not (default: 1)",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where the data sets' files are (default: see pyconv data list)",
    )
    questions = "\n".join(f"  {study.name:<12} {study.question}" for study in STUDIES.values())
    parser.epilog = f"""studies:
{questions}
  activations  What do the first four layers make of trousers, a pullover, a sandal and three shoes?
  best         How good can a network of 25,000, 100,000 or 1,000,000 parameters be? (hours to days)

examples:
  pyconv study depth
  pyconv study baseline --epochs 1 --images 2000 --out trial
  pyconv study early-stop width --seeds 3

exit status: 0 when all is written, 1 on an error, 130 if interrupted by Ctrl-C"""


def run(args: argparse.Namespace) -> int:
    """Conduct the studies and print their tables."""
    from pyconv.training.study import contests, experiment
    from pyconv.training.study.plan import STUDIES

    if "best" in args.studies and args.seeds != 1:
        raise InputError("--seeds: the study best has one seed; leave the flag out, or the study")
    if not 0 <= args.timing_seconds < float("inf"):
        raise InputError(f"--timing-seconds: expected 0 or more, got {args.timing_seconds:g}")
    with _Display() as display:
        listener = experiment.Listener(display.run, display.batch, display.epoch, display.stage)
        written: list[Path] = []
        try:
            for name in args.studies:
                common = {
                    "epochs": args.epochs,
                    "images": args.images,
                    "data_folder": args.data_dir,
                    "listener": listener,
                }
                if name == "activations":
                    written += experiment.activations(args.out, **common)
                    continue
                common["timing_seconds"] = args.timing_seconds
                if name == "best":
                    contests.conduct(args.out, **common)
                else:
                    experiment.conduct(STUDIES[name], args.out, seeds=args.seeds, **common)
                written += sorted(path for path in (args.out / name).iterdir() if path.is_file())
        except KeyboardInterrupt:
            print(
                "pyconv study: interrupted; the finished epochs are kept, the same command goes on",
                file=sys.stderr,
            )
            return 130
    for path in written:
        if path.name == "table.md":
            print(path.read_text(encoding="utf-8"))
    for path in written:
        print(path)
    return 0


def _list(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


class _Display(TrainingDisplay):
    """A line an epoch on standard error, and a bar below it where that is a terminal."""

    def __init__(self) -> None:
        from rich.progress import TaskProgressColumn

        super().__init__(TaskProgressColumn())
        self._run = ""

    def run(self, name: str) -> None:
        """Draw which network is next."""
        self._run = name
        self._bar.reset(self._task, description=name, total=None, figures="")

    def batch(self, now: Progress) -> None:
        """Draw how far the run is, all its epochs together."""
        self._bar.update(
            self._task,
            description=f"{self._run}, epoch {now.epoch} of {now.epochs}",
            completed=(now.epoch - 1) * now.batches + now.batch,
            total=now.epochs * now.batches,
            figures=f"loss {now.loss:.4f}  accuracy {now.accuracy:.4f}",
        )

    def epoch(self, done: Epoch) -> None:
        """Print what an epoch came to."""
        measured = (
            f"held out {done.validation_accuracy:.4f}"
            if done.validation_accuracy is not None
            else f"test {done.test_accuracy:.4f}"
        )
        self._console.print(
            f"{self._run}  epoch {done.epoch:>2}  accuracy {done.accuracy:.4f}  {measured}"
            f"  {done.seconds:.1f} s",
            highlight=False,
            soft_wrap=True,
        )

    def stage(self, name: str, share: float) -> None:
        """Draw what is being measured."""
        self._bar.update(self._task, description=name, completed=share, total=1.0, figures="")
