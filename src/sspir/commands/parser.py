"""The parser of the commands' flags."""

import argparse
from typing import NoReturn

from sspir.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse's parser, which prints the examples of `epilog` as they are written, and raises for a wrong flag."""

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=prog, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message: str) -> NoReturn:
        """Refuse the flags.

        Raises:
            UserError: always.
        """
        raise UserError(f"{message}; see {self.prog} --help.")


def add_captioner_input(group: argparse._ActionsContainer, meaning: str) -> None:
    """Add the flag --captioner-input, which chooses the image that a captioner describes; `meaning` is its help."""
    choices = ("lq", "processor", "restored")
    old = "--shown"  # until version 0.3
    group.add_argument("--captioner-input", old, dest="captioner_input", choices=choices, default="lq", help=meaning)
