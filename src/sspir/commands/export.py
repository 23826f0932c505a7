"""`sspir export`: a trained run as a folder to publish."""

import sys
from pathlib import Path

from sspir.commands.parser import Parser

EXAMPLES = """examples:
  what others can restore with, at half the size:
    sspir export runs/tiny/none-s0 --out my-model
    sspir restore photos/ --weights my-model --out restored

  the LoRA of a run's U-Net alone, for load_lora_weights of diffusers, and what else was trained beside it:
    sspir export runs/ssp_ir_lora/none-s0 --out my-lora --adapter

The folder is a diffusers pipeline in safetensors with the training configuration, a model card (README.md) to complete
and SHA256SUMS, which is checked whenever the folder is loaded.
"""


def run(arguments: list[str]) -> int:
    """Export. Returns the exit status."""
    parser = Parser(
        "sspir export",
        "Write a trained run as a folder to publish, with averaged weights where they were kept.",
        EXAMPLES,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a trained run")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to make")
    parser.add_argument("--checkpoint", default="last", help="last, best, or a file in RUN/checkpoints (default: last)")
    parser.add_argument(
        "--dtype", default="float16", choices=("float32", "float16", "bfloat16"), help="on disk (default: float16)"
    )
    parser.add_argument("--adapter", action="store_true", help="the LoRA alone, not merged into its base")
    options = parser.parse_args(arguments)

    from sspir.weights.export import export

    export(options.run, options.out, options.checkpoint, options.dtype, options.adapter)
    sys.stdout.write(f"Exported to {options.out}; complete its model card, {options.out / 'README.md'}.\n")
    return 0
