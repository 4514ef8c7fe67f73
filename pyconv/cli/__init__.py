"""The command `pyconv`: one module a command, each of which parses, calls and prints.

A command's module has

- `HELP`: the sentence that `pyconv --help` shows;
- `configure(parser)`: adds its arguments, and examples as `parser.epilog`;
- `run(args) -> int`: does it and returns the exit status.

A `PyconvError` becomes one line on standard error and exit status 1; a wrong flag exits with 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from pyconv.errors import PyconvError

COMMANDS = (
    "demo",
    "classify",
    "activations",
    "inspect",
    "serve",
    "load-test",
    "bench",
    "summary",
    "explain",
    "train",
    "study",
    "export",
    "quantize",
    "data",
)
"""In the order in which `pyconv --help` lists them; `pyconv.cli.NAME` is the module of each,
with _ for -."""


class _Parser(argparse.ArgumentParser):
    """argparse, with descriptions and examples printed as they were written."""

    def __init__(self, **kwargs: object) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**kwargs)  # type: ignore[arg-type]


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="pyconv",
        description="Small convolutional networks on a CPU: train, export, serve, look inside.",
        epilog="Start with:\n  pyconv demo\n  pyconv COMMAND --help",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f"pyconv.cli.{name.replace('-', '_')}")
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        module.configure(command)
        command.set_defaults(run=module.run)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import pyconv

        print(f"pyconv {pyconv.__version__}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = build_parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except PyconvError as error:
        print(f"pyconv {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"pyconv {args.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`pyconv … | head`): nobody is left to tell.
        sys.stderr.close()
        return 141
    return status
