"""`sspir doctor`: what is there, what is missing, where to put it, and what an experiment will take."""

import sys
from collections.abc import Callable, Iterator

from sspir.commands.parser import Parser
from sspir.errors import UserError

EXAMPLES = """examples:
  which metrics can run here, and what the others lack:
    sspir doctor metrics
  what an experiment needs: files, photos, parameters, memory of a step, and whether it fits this machine:
    sspir doctor ssp_ir
  the same with other settings, as of sspir train:
    sspir doctor ssp_ir batch_size=4 backbone.path=/models/sd15 backbone.dtype=bfloat16

Nothing is downloaded or trained. Exit status: 0 everything is there, 1 something is missing.
"""


def run(arguments: list[str]) -> int:
    """Print a report of the topics; 1 if anything is missing."""
    parser = Parser(
        "sspir doctor",
        "Say what is there, what is missing, where to put it, and what an experiment will take.",
        EXAMPLES,
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="TOPIC", help=f"{', '.join(TOPICS)} (default), or an experiment and KEY=VALUE")
    words = parser.parse_args(arguments).words
    topics = [word for word in words if "=" not in word] or list(TOPICS)
    overrides = [word for word in words if "=" in word]
    complete = True
    for topic in topics:
        for name, missing in _findings(topic, overrides):
            sys.stdout.write(f"{'missing' if missing else 'ready  '}  {name}\n")
            sys.stdout.writelines(f"           - {need}\n" for need in missing)
            complete = complete and not missing
    return 0 if complete else 1


def _findings(topic: str, overrides: list[str]) -> Iterator[tuple[str, list[str]]]:
    if topic in TOPICS:
        return TOPICS[topic]()
    from sspir.config.compose import choices, compose_config

    experiments = choices("experiments")
    if topic not in experiments:
        raise UserError(
            f"There is no topic or experiment {topic!r}; choose among {', '.join([*TOPICS, *experiments])}."
        )
    from sspir.doctor.needs import needs

    return needs(compose_config("train", [f"experiments={topic}", *overrides]))


def _metrics() -> Iterator[tuple[str, list[str]]]:
    """Yield each metric, with sentences about the files and packages that it lacks."""
    from sspir.commands.compare import load_metrics
    from sspir.metrics.base import MetricUnavailableError
    from sspir.metrics.weight_files import WEIGHTS, problems

    for name, metric in load_metrics(["all"]).items():
        try:
            metric.require()
            yield name, []
        except MetricUnavailableError as error:
            yield name, [str(error)]
    for name in WEIGHTS:
        yield name, problems(name)


TOPICS: dict[str, Callable[[], Iterator[tuple[str, list[str]]]]] = {"metrics": _metrics}
