"""The ``ridgeline`` command: ``info``, ``demo`` and ``bench``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__, runtime

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        The exit status: 0, 1 if something is missing or failed, 130 after Ctrl-C. Bad arguments
        leave with status 2.

    Examples
    --------
    >>> from ridgeline.cli import main
    >>> main(["info"])  # doctest: +ELLIPSIS
    ridgeline ...
    0
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    command = next((argument for argument in argv if not argument.startswith("-")), "")
    try:
        args = _parser(command).parse_args(argv)
        status: int = args.run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", __package__):
            raise
        hint = f'pip install "ridgeline[{command}]"'
        print(f"ridgeline {command}: {package} is not installed; try {hint}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"ridgeline {command}: {error}", file=sys.stderr)
        return 1
    return status


def _parser(command: str) -> argparse.ArgumentParser:
    """Describe the arguments. Those of ``bench`` are looked up only if it is the command."""
    parser = argparse.ArgumentParser(
        prog="ridgeline", description="Regularization kernels for training loops on the CPU."
    )
    parser.add_argument("--version", action="version", version=f"ridgeline {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")

    text = "print the version, the build, the targets and the threads"
    info = commands.add_parser("info", help=text, description=text)
    info.set_defaults(run=_info)

    text = "train on real digits with and without regularization"
    demo = commands.add_parser("demo", help=text, description=text)
    demo.add_argument("--quick", action="store_true", help="fewer epochs and seeds: some seconds")
    demo.add_argument("--seeds", type=_positive, metavar="N", help="repeat with N seeds")
    demo.add_argument(
        "--output", type=Path, metavar="DIR", default=Path(), help="where the curves go"
    )
    demo.set_defaults(run=_demo)

    text = "measure this machine: kernels against NumPy and the memory roof"
    bench = commands.add_parser("bench", help=text, description=text)
    if command == "bench":
        from .bench import cli

        cli.add_arguments(bench)
        bench.set_defaults(run=cli.run)
    return parser


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, wants a whole number of at least 1")
    return number


def _info(args: argparse.Namespace) -> int:
    runtime.show_config()
    return 0


def _demo(args: argparse.Namespace) -> int:
    from .demo import run

    run(quick=args.quick, seeds=args.seeds, output=args.output)
    return 0
