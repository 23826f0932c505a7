"""`sspir doctor TOPIC`: what is there, what is missing, and where to put it."""

import argparse
import sys
from collections.abc import Callable, Iterator

from sspir.errors import UserError

EXAMPLES = """examples:
  which metrics can run here, and what the others lack:
    sspir doctor metrics

Nothing is downloaded. Exit status: 0 everything is there, 1 something is missing.
"""


def run(arguments: list[str]) -> int:
    """Print a report of the topics; 1 if anything is missing."""
    parser = argparse.ArgumentParser(
        prog="sspir doctor",
        description="Say what is there, what is missing, and where to put it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=f"{', '.join(TOPICS)} (default: all)")
    topics = parser.parse_args(arguments).topics or list(TOPICS)
    for topic in topics:
        if topic not in TOPICS:
            raise UserError(f"There is no topic {topic!r}; choose among {', '.join(TOPICS)}.")
    whole = True
    for topic in topics:
        for name, needs in TOPICS[topic]():
            sys.stdout.write(f"{'missing' if needs else 'ready  '}  {name}\n")
            sys.stdout.writelines(f"           - {need}\n" for need in needs)
            whole = whole and not needs
    return 0 if whole else 1


def _metrics() -> Iterator[tuple[str, list[str]]]:
    """Each metric with what it lacks."""
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
