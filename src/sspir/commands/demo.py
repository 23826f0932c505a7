"""`sspir demo`: the main job in a minute."""

import logging
import sys
from pathlib import Path

from sspir.commands.parser import Parser
from sspir.numbers import COUNT


def run(arguments: list[str]) -> int:
    """Parse the flags and run the demo. Returns the exit status."""
    parser = Parser(
        prog="sspir demo",
        description="Restore photos with the small model that ships with sspir, and show them side by side with a\n"
        "table of PSNR and SSIM. Needs no network, no GPU and no account.",
        epilog="example: sspir demo --photos ~/Pictures --bad ~/Pictures/old.jpg",
    )
    parser.add_argument("--out", default="demo", type=Path, help="folder for everything it writes (default: demo)")
    parser.add_argument("--photos", help="folder of good photos (default: $SSPIR_PHOTOS, else scikit-image's)")
    parser.add_argument("--bad", help="a bad photo, or a folder of them, to restore as it is")
    parser.add_argument("--count", default=6, type=COUNT, help="number of validation photos to restore (default: 6)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)

    from sspir.demo import demo

    demo(options.out, options.photos, options.bad, options.count)
    return 0
