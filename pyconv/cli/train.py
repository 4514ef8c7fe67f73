"""Train one of the lesson's networks and export it.

Prints the network, trains it, and writes into the folder: model.keras, history.csv with a row an
epoch, curves.png of loss and accuracy, and model.onnx, compared with Keras on both engines and
measured on all images. Ctrl-C keeps the last finished epoch. Needs the extra 'train'.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyconv.cli.training_display import TrainingDisplay
from pyconv.errors import InputError

if TYPE_CHECKING:
    import keras

    from pyconv.training import Epoch, Progress, Run, Settings

HELP = "train a network and export it"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    from pyconv.training.settings import NETWORKS, SCHEDULES, Settings

    # A flag that was not given takes the default of Settings, or of the run that is resumed.
    given: dict[str, Any] = {"default": argparse.SUPPRESS}
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    parser.add_argument(
        "--data", metavar="NAME", help="the data set: mnist or fashion-mnist", **given
    )
    parser.add_argument(
        "--network",
        choices=NETWORKS,
        help="convolutional; dense: the baseline without convolutions; or residual: stages of "
        "normalized convolutions with short cuts (default: convolutional)",
        **given,
    )
    parser.add_argument(
        "--filters",
        nargs="+",
        type=int,
        metavar="N",
        help="filters of each convolution, one number a layer, or a stage of a residual network "
        "(default: 64 64)",
        **given,
    )
    parser.add_argument(
        "--blocks",
        type=int,
        metavar="N",
        help=f"blocks of two convolutions in each stage of a residual network "
        f"(default: {defaults['blocks']})",
        **given,
    )
    parser.add_argument(
        "--kernel-size",
        type=int,
        metavar="N",
        help=f"rows and columns of every kernel (default: {defaults['kernel_size']})",
        **given,
    )
    pooling = parser.add_mutually_exclusive_group()
    pooling.add_argument(
        "--pool",
        type=int,
        metavar="N",
        help=f"rows and columns of the max pooling after every convolution "
        f"(default: {defaults['pool']})",
        **given,
    )
    pooling.add_argument(
        "--no-pool", dest="pool", action="store_const", const=1, help="no pooling", **given
    )
    parser.add_argument(
        "--hidden",
        type=int,
        metavar="N",
        help=f"units of the hidden dense layer (default: {defaults['hidden']})",
        **given,
    )
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help=f"times through the training images (default: {defaults['epochs']})",
        **given,
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help=f"images a step (default: {defaults['batch_size']})",
        **given,
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        metavar="X",
        help=f"Adam's (default: {defaults['learning_rate']})",
        **given,
    )
    parser.add_argument(
        "--schedule",
        choices=SCHEDULES,
        help="constant, or cosine: the learning rate falls to 0 by the last epoch "
        f"(default: {defaults['schedule']})",
        **given,
    )
    parser.add_argument(
        "--weight-decay",
        type=float,
        metavar="X",
        help="shrink every weight by the share X times the learning rate at each step "
        f"(default: {defaults['weight_decay']:g})",
        **given,
    )
    parser.add_argument(
        "--rotate",
        type=float,
        metavar="DEGREES",
        help="turn every training image by up to so many degrees each way, anew every epoch "
        f"(default: {defaults['rotate']:g})",
        **given,
    )
    parser.add_argument(
        "--zoom",
        type=float,
        metavar="X",
        help="make every training image larger or smaller by up to the share X "
        f"(default: {defaults['zoom']:g})",
        **given,
    )
    parser.add_argument(
        "--flip", action="store_true", help="mirror half of the training images", **given
    )
    parser.add_argument(
        "--erase",
        type=int,
        metavar="N",
        help="fill a square of N rows and columns with noise in half of the training images "
        f"(default: {defaults['erase']})",
        **given,
    )
    parser.add_argument(
        "--shift",
        type=int,
        metavar="N",
        help="move every training image by up to N pixels each way, anew every epoch "
        f"(default: {defaults['shift']})",
        **given,
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help=f"of the first weights and the order of the images (default: {defaults['seed']})",
        **given,
    )
    parser.add_argument(
        "--stop-at-accuracy",
        type=float,
        metavar="X",
        help="end after the first epoch whose training accuracy reaches X, such as 0.98",
        **given,
    )
    parser.add_argument(
        "--validation",
        type=int,
        metavar="N",
        help="hold N training images out and measure on them after every epoch, to choose "
        "settings without looking at the test images (default: 0)",
        **given,
    )
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="use only the first N images of each split, to try something out (default: all)",
        **given,
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the run's files"
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        action="store_true",
        help="go on after the last finished epoch of the run in DIR, with its settings; "
        "a larger --epochs trains it longer",
    )
    again.add_argument("--force", action="store_true", help="replace the run in DIR")
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where the data set's files are (default: see pyconv data list)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the results as JSON and nothing else"
    )
    parser.epilog = """examples:
  pyconv train --data fashion-mnist --filters 64 64 --hidden 128 --epochs 5 --seed 0 --out runs/two
  pyconv train --data mnist --filters 16 --stop-at-accuracy 0.98 --out runs/digits
  pyconv train --data fashion-mnist --network dense --out runs/baseline
  pyconv train --out runs/two --resume --epochs 10

exit status: 0 when trained and exported, 1 on an error, 130 if interrupted by Ctrl-C"""


def run(args: argparse.Namespace) -> int:
    """Train, and print what came out."""
    from pyconv.training import train

    settings = _settings(args)
    with _Display() as display:
        try:
            result = train(
                settings,
                args.out,
                resume=args.resume,
                force=args.force,
                data_folder=args.data_dir,
                on_start=None if args.json else display.network,
                on_batch=display.batch,
                on_epoch=display.epoch,
                on_stage=display.stage,
            )
        except KeyboardInterrupt:
            print(
                "pyconv train: interrupted; the finished epochs are kept, go on with\n"
                f"  pyconv train --out {args.out} --resume",
                file=sys.stderr,
            )
            return 130
    if args.json:
        print(json.dumps(result.to_dict(), indent=2))
    else:
        _print(result)
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    """The flags that were given, over the settings of the run to resume or the defaults."""
    from pyconv.training import Settings
    from pyconv.training.fit import Checkpoint

    names = {field.name for field in dataclasses.fields(Settings)}
    flags = {name: value for name, value in vars(args).items() if name in names}
    if "filters" in flags:
        flags["filters"] = tuple(flags["filters"])
    stored = Checkpoint(args.out).settings
    if args.resume:
        if not stored.exists():
            raise InputError(f"{args.out}: there is no run to resume")
        return dataclasses.replace(Settings.read(stored), **flags)
    if "data" not in flags:
        raise InputError("--data is missing: expected mnist or fashion-mnist")
    return Settings(**flags)


class _Display(TrainingDisplay):
    """A line an epoch on standard error, and a bar below it where that is a terminal."""

    def __init__(self) -> None:
        from rich.progress import MofNCompleteColumn

        super().__init__(MofNCompleteColumn())

    def network(self, model: keras.Model) -> None:
        """Print the table of layers, on standard output."""
        self._bar.stop()  # what others print would go into the bar's line
        model.summary()
        self._bar.start()

    def batch(self, now: Progress) -> None:
        """Draw how far the epoch is."""
        self._bar.update(
            self._task,
            description=f"epoch {now.epoch} of {now.epochs}",
            completed=now.batch,
            total=now.batches,
            figures=f"loss {now.loss:.4f}  accuracy {now.accuracy:.4f}",
        )

    def epoch(self, done: Epoch) -> None:
        """Print what an epoch came to."""
        measured = (
            f"  held out {done.validation_accuracy:.4f}"
            if done.validation_accuracy is not None
            else f"  test loss {done.test_loss:.4f}  test accuracy {done.test_accuracy:.4f}"
        )
        self._console.print(
            f"epoch {done.epoch:>2}  loss {done.loss:.4f}  accuracy {done.accuracy:.4f}{measured}"
            f"  {done.seconds:.1f} s",
            highlight=False,
            soft_wrap=True,
        )

    def stage(self, name: str) -> None:
        """Draw what is being done that has no known length."""
        self._bar.reset(self._task, description=name, total=None, figures="")


def _print(result: Run) -> None:
    from rich.table import Table

    from pyconv.cli.export import print_comparison, wide_console

    console = wide_console()
    print_comparison(console, result.exported)
    table = Table(title="Accuracy of model.onnx", title_justify="left")
    table.add_column("all images")
    for engine in result.accuracy["test"]:
        table.add_column(engine, justify="right")
    for split, by_engine in result.accuracy.items():
        table.add_row(split, *(f"{value:.4f}" for value in by_engine.values()))
    console.print(table)
    for path in (result.keras_path, result.history_path, result.curves_path, result.onnx_path):
        print(path)
