"""`sspir app`: the page and the HTTP endpoint, on this machine."""

import argparse
import os
import signal
import sys
from typing import Any

from sspir.commands.parser import Parser
from sspir.commands.restore_flags import add_machine, add_weights, parser
from sspir.commands.restore_model import load, models_of, request_of
from sspir.commands.stop import EndedError, signals_to
from sspir.errors import UserError
from sspir.numbers import COUNT, LIMIT, Numbers

PORT = Numbers(int, 1, 65535)

EXAMPLES = """examples:
  a page for this machine alone, with the small model that comes along:
    sspir app
  with a model of your own, also for the others in the house:
    sspir app --weights runs/ssp_ir/none-s0 --device cuda --dtype bfloat16 --host 0.0.0.0 --token something-long
  from a program:
    curl -F image=@photo.jpg -F scale=2 http://localhost:7860/v1/images/upscales --output restored.png

SSPIR_TOKEN in the environment is taken for --token, which everybody on this machine can see in its list of processes.
Nothing is asked of any other host. Photos and results are deleted when their page is closed or was left alone for an
hour, and all of them when the program ends.
"""


def run(arguments: list[str]) -> int:
    """Serve until a signal ends it. Returns the exit status."""
    flags = Parser("sspir app", "Restore photos on a page in your browser, or from programs by HTTP.", EXAMPLES)
    add_weights(flags.add_argument_group("model"))
    flags.add_argument("--captioner", metavar="NAME", help="who proposes captions: none, measured, ... or a .yaml")
    add_machine(flags.add_argument_group("machine"))
    _of_the_server(flags.add_argument_group("server"))
    options = flags.parse_args(arguments)
    try:
        import fastapi  # noqa: F401 (gradio, which brings it, reads its settings when it is imported: later)
    except ImportError as error:
        raise UserError("The page needs packages that are not here; install them: pip install 'sspir[app]'.") from error
    with signals_to(_end):
        try:
            _serve(options)
        except EndedError as ended:
            sys.stderr.write("\nEnded; photos and results that were here are deleted.\n")
            return 128 + ended.number
    return 0


def _end(number: int, frame: Any) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # once is enough: cleaning up is not interrupted
    raise EndedError(number)


def _of_the_server(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine alone)")
    add("--port", type=PORT, default=7860, help="default 7860")
    add("--token", default=os.environ.get("SSPIR_TOKEN"), help="that every request must carry (default: none)")
    add("--max-pixels", type=COUNT, default=50, metavar="M", help="refuse photos over M megapixels (default 50)")
    add(
        "--max-output-pixels",
        type=LIMIT,
        default=100,
        metavar="M",
        help="refuse results over M megapixels (default 100)",
    )
    add("--max-upload", type=COUNT, default=100, metavar="MB", help="refuse to take more at once (default 100)")
    add("--queue", type=COUNT, default=8, metavar="N", help="restorations that may wait (default 8)")


def _serve(options: argparse.Namespace) -> None:
    from sspir.app.guard import Guard, checked_token
    from sspir.app.server import listen, own_folder, serve

    token = checked_token(options.host, options.token)
    taken = listen(options.host, options.port)
    with taken, own_folder() as folder:
        from sspir.app.endpoint import endpoint  # after its folder is known
        from sspir.app.page import mounted
        from sspir.app.queue import Queue
        from sspir.app.restorer import Restorer
        from sspir.restoring.runner import Request

        model = model_flags(options)
        pipeline = load(_of_restore([*model, f"--max-output-pixels={options.max_output_pixels}"]))

        def request(settings: list[str]) -> Request:
            return request_of(_of_restore([*model, *settings]), pipeline)

        with Queue(options.queue) as queue:
            restorer = Restorer(pipeline, queue, request, model, options.max_pixels * 1_000_000, options.batch)
            app = mounted(endpoint(restorer, folder), restorer, folder)
            guard = Guard(app, options.host, token, options.max_upload * 1_000_000, folder)
            serve(guard, queue, taken, token)


def _of_restore(flags: list[str]) -> argparse.Namespace:
    """The flags as `sspir restore` would take them, of its only model."""
    models = models_of(parser("").parse_args(["photo", "--out", "restored", *flags]))
    if len(models) > 1:
        raise UserError(f"The page serves one model, not {len(models)}; give --weights once.")
    return next(iter(models.values()))


def model_flags(options: argparse.Namespace) -> list[str]:
    """The flags that name the model and how it runs, as `sspir restore` takes them."""
    given = {name: value for name, value in vars(options).items() if name != "weights"}
    flags = [action for action in parser("")._actions if given.get(action.dest, action.default) != action.default]
    shared = [action for action in flags if not action.dest.startswith("max_")]
    given["batch"] = given.get("batch") or "auto"
    return [f"--weights={text}" for text in options.weights or ()] + [
        action.option_strings[0] if given[action.dest] is True else f"{action.option_strings[0]}={given[action.dest]}"
        for action in shared
    ]
