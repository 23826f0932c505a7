"""`sspir dashboard`: a W&B project's workspace and report, made by code."""

import importlib.util
import json
import os
import sys
from pathlib import Path

from sspir.commands.parser import Parser
from sspir.errors import UserError

EXAMPLES = """examples:
  charts of losses, validation beside bicubic and the Processor, ablations, pictures and evaluations:
    sspir dashboard sspir
  with the ablation tables of local runs: spread over seeds, paired gains with intervals where they were evaluated:
    sspir dashboard team/sspir --runs runs/tiny
  as a file, which asks nobody:
    sspir dashboard sspir --runs runs/tiny --out dashboard.json

With an account it saves a new view of the workspace and a new report, and prints where they are. Without one (no API
key, or WANDB_MODE=offline) it writes what it would have saved to dashboard.json.
"""


def run(arguments: list[str]) -> int:
    """Save the workspace and the report, or write what they are."""
    options = _parser().parse_args(arguments)
    entity, _, project = options.project.rpartition("/")
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise UserError("sspir dashboard needs the package wandb-workspaces: pip install 'sspir[dashboards]'")

    from sspir.config.compose import compose_config
    from sspir.files import write_text
    from sspir.report.collect import collect
    from sspir.report.dashboard import Names, names_of, report, workspace

    found = collect(options.runs) if options.runs else None
    for problem in found.problems if found else ():
        sys.stderr.write(f"{problem}\n")
    names = names_of(found.runs) if found else Names(())
    if not names.metrics:
        names = names._replace(metrics=list(compose_config("metric/fast").metric))
    online = not options.out and _has_account()
    if online and not entity:
        entity = _default_entity()
    made = {"workspace": workspace(entity, project, names), "report": report(entity, project, names, found)}
    if not online:
        out = options.out or Path("dashboard.json")
        specification = {name: each._to_model().model_dump(mode="json", by_alias=True) for name, each in made.items()}
        write_text(out, json.dumps(specification, indent=2) + "\n")
        hint = "" if options.out else "; `wandb login` and the same command again save it in W&B"
        sys.stdout.write(f"{out}: the specification of a workspace and a report{hint}\n")
        return 0
    try:
        for name, each in made.items():
            each.save()
            sys.stdout.write(f"{name}: {each.url}\n")
    except Exception as error:  # of many kinds: no network, no such entity, no right to write there
        raise _unsaved(error) from error
    return 0


def _has_account() -> bool:
    from sspir.training.artifacts import has_account

    return os.environ.get("WANDB_MODE", "online") == "online" and has_account()


def _default_entity() -> str:
    import wandb

    try:
        return str(wandb.Api().default_entity)
    except Exception as error:
        raise _unsaved(error) from error


def _unsaved(error: Exception) -> UserError:
    words = " ".join(str(error).split())
    return UserError(f"W&B did not save the dashboard ({words}); --out FILE writes what it is instead.")


def _parser() -> Parser:
    parser = Parser("sspir dashboard", "Make a W&B workspace and a report about a project's runs.", EXAMPLES)
    add = parser.add_argument
    add("project", metavar="PROJECT", help="of W&B, or ENTITY/PROJECT (default: the account's own entity)")
    add("--runs", nargs="+", type=Path, metavar="PATH", help="local runs and results, for names and ablation tables")
    add("--out", type=Path, metavar="FILE", help="write the specification as JSON, and ask nobody")
    return parser
