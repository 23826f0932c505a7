"""How the commands read their flags."""

import argparse
from typing import NoReturn

from sspir.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse's, with examples as they were written below the help, and one sentence where a flag is wrong."""

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
