"""The `sspir` command: one module under `commands` per subcommand, imported only when it is used."""

import argparse
import os
import select
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from sspir import __version__
from sspir.config import outside

COMMANDS = {
    "demo": "restore photos with the model that comes along, and show and measure them",
    "train": "train a model (Hydra overrides: experiments=tiny seed=1)",
    "sweep": "search for the best settings of a training with Optuna, or with W&B's agents",
    "evaluate": "restore benchmarks with a trained run and measure (Hydra overrides)",
    "restore": "restore photos and folders of photos",
    "app": "the same on a page in your browser, and by HTTP for programs",
    "export": "a trained run as a folder to publish",
    "caption": "describe a folder of photos in words, to edit, train and restore with",
    "degrade": "make low-quality copies of a folder, or a sheet that shows what a degradation does",
    "pack": "pack a folder of photos into a few large tar files",
    "teach": "have another restorer make the pictures that a one-step model learns from",
    "data": "describe, check and download the public data sets",
    "compare": "measure any methods' output folders against the truth",
    "report": "one self-contained HTML page about results and training runs",
    "dashboard": "a W&B workspace and report about a project's runs, made by code",
    "weights": "get what distances, discriminators and peers need, once",
    "doctor": "what is there, what is missing, and where to put it",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status: 0 done, 1 partly, 2 bad input, 141 its reader went away."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error: the names of files may be no text
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return 128 + 13  # as if by SIGPIPE, which ends other programs then


def _reader_is_gone() -> bool:
    """Whether nobody reads standard output any more, as after `sspir ... | head`; it then leads nowhere."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    gone = bool(output.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush at the end
    return gone


def _run(argv: Sequence[str] | None) -> int:
    arguments = outside.take_path(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="sspir",
        description="Restore bad photos, and train, evaluate and compare the models that do it.",
        epilog="`sspir COMMAND --help` teaches each of them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--path", metavar="DIR", help="a folder of your own code, conf/ and experiments/, as in SSPIR_PATH; repeatable"
    )
    parser.add_argument("--version", action="version", version=f"sspir {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, add_help=False)
        subparser.add_argument("rest", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(arguments[:1])
    command = import_module(f"sspir.commands.{chosen.command}")
    try:
        outside.activate()
        return int(command.run(arguments[1:]))
    except KeyboardInterrupt:
        sys.stderr.write(f"\nsspir {chosen.command}: stopped by Ctrl-C.\n")
        return 128 + 2  # as shells say of SIGINT
    except Exception as error:
        from sspir.config.compose import told

        if (sentence := told(error)) is None:
            raise
        sys.stderr.write(f"sspir {chosen.command}: {sentence}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
