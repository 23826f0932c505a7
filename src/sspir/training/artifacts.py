"""Artifacts in W&B: a finished run sends its checkpoints, or what they are, and anyone fetches them as a run folder."""

import json
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from sspir.errors import UserError
from sspir.files import cache_folder, sha256
from sspir.training.checkpoint import link_or_copy
from sspir.training.run import CHECKPOINTS, COMPOSED, CONFIG, ENVIRONMENT, SUMMARY
from sspir.training.saved import SUMS, verify

KINDS = ("checkpoints", "manifest", "none")
PREFIX = "wandb:"
SENT = ("best", "last")
STAGED = "wandb/artifacts"  # in the folder of a run: what an offline run has still to send


def has_account() -> bool:
    """Whether an API key of W&B is known here; nobody is asked for one."""
    import wandb

    return bool(os.environ.get("WANDB_API_KEY")) or wandb.login(prompt=False)


def publish(run: Any, folder: Path, kind: str) -> None:
    """Log a run's artifacts; an offline run keeps them for `wandb sync`.

    Args:
        run: of W&B, whose name the artifacts get.
        folder: of the run.
        kind: "checkpoints" for the best and the last one, each a version with its alias that is a run folder of its
            own; "manifest" for names, sizes and checksums of all checkpoints; "none".
    """
    import wandb

    name = re.sub(r"[^\w.-]+", "-", run.name, flags=re.ASCII)[:100]
    records = [part for part in (CONFIG, COMPOSED, ENVIRONMENT, SUMMARY) if (folder / part).is_file()]
    files = sorted((folder / CHECKPOINTS).glob("*.ckpt"))
    if kind == "manifest":
        artifact = wandb.Artifact(f"{name}-manifest", "manifest", "The checkpoints of a run, without their weights")
        for part in records:
            artifact.add_file(str(folder / part), part)
        with artifact.new_file("checkpoints.json", encoding="utf-8") as written:
            facts = {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files}
            json.dump(facts, written, indent=2)
        run.log_artifact(artifact)
    for file in files if kind == "checkpoints" else ():
        if file.stem in SENT:
            link = (folder / STAGED / file.name).resolve()  # which stays as it is when the run goes on
            link.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(file, link)
            parts = {part: folder / part for part in records} | {f"{CHECKPOINTS}/{file.name}": link}
            artifact = wandb.Artifact(name, "model", f"The {file.stem} checkpoint of a run, with its configuration")
            for part, path in parts.items():
                artifact.add_file(str(path), part, policy="immutable" if path == link else "mutable")
            with artifact.new_file(SUMS, encoding="utf-8") as written:
                written.writelines(f"{sha256(path)}  {part}\n" for part, path in parts.items())
            run.log_artifact(artifact, aliases=[file.stem])


def fetch(reference: str) -> Path:
    """The run folder that an artifact holds, downloaded once and moved into the cache when its checksums are right.

    Args:
        reference: "ENTITY/PROJECT/NAME:best"; any alias or version.

    Raises:
        UserError: W&B has no such artifact, or it holds no run of ours or a damaged one.
    """
    import wandb

    try:
        artifact = wandb.Api().artifact(reference)
        name = "-".join((artifact.name.partition(":")[0], artifact.version))
        place = cache_folder() / "wandb" / artifact.entity / artifact.project / name
        if place.is_dir():
            return place
        entries = artifact.manifest.entries
    except Exception as error:  # of many kinds: no key, no network, no such artifact
        raise UserError(
            f"{PREFIX}{reference} cannot be got from W&B ({_words(error)}); log in by `wandb login`, and name a run "
            f"that was trained with logger.wandb.artifacts=checkpoints as wandb:ENTITY/PROJECT/NAME:best."
        ) from error
    if not {CONFIG, SUMS} <= entries.keys() or not any(path.startswith(f"{CHECKPOINTS}/") for path in entries):
        raise UserError(f"{PREFIX}{reference} holds no run; train with logger.wandb.artifacts=checkpoints.")
    if strange := [path for path, entry in entries.items() if entry.ref or not _is_inside(path)]:
        raise UserError(f"{PREFIX}{reference} names files elsewhere, such as {strange[0]}; it is not to be trusted.")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as partial:
        whole = Path(partial, "run")
        try:
            artifact.download(root=str(whole), skip_cache=True)
            verify(whole)
        except Exception as error:
            raise UserError(f"{PREFIX}{reference} did not come whole ({_words(error)}); try again.") from error
        with suppress(OSError):  # another process was faster
            whole.rename(place)
    return place


def _is_inside(path: str) -> bool:
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
