"""Reads a W&B run file, `run-ID.wandb`, record by record, as W&B's own Python package no longer does."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEAD = 32768, 7  # bytes of LevelDB's log format, and of the head of a chunk and of the file
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Record]:
    """Yield the records of a run file; what a kill has cut off is passed over."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    place, parts = HEAD, b""
    while place + HEAD <= len(data):
        rest = BLOCK - place % BLOCK
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if rest < HEAD or not kind:
            place += rest
            continue
        chunk, place = data[place + HEAD : place + HEAD + length], place + HEAD + length
        parts = chunk if kind in (FULL, FIRST) else parts + chunk
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(parts)
            yield record


class Told(NamedTuple):
    """What W&B was told of a run.

    Attributes:
        run: its own record: name, group, job type, tags, commit.
        config: key -> value.
        history: rows of logged values.
        summary: name -> last or best value.
        alerts: records.
        artifacts: records.
        files: names of files that were handed over.
        stats: number of samples of system metrics.
        status: of the end.
    """

    run: Any
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    alerts: list[Any]
    artifacts: list[Any]
    files: list[str]
    stats: int
    status: int | None


def told(folder: Path) -> list[Told]:
    """What the W&B runs below a folder were told, in the order in which they began; those without a word are none."""
    written = [list(records(path)) for path in sorted(folder.rglob("run-*.wandb"))]
    return [_told(found) for found in written if any(record.WhichOneof("record_type") == "run" for record in found)]


def _told(found: list[Record]) -> Told:
    of_kind: dict[str, list[Any]] = {}
    for record in found:
        kind = record.WhichOneof("record_type")
        of_kind.setdefault(kind, []).append(getattr(record, kind))
    run, summary = of_kind["run"][0], {}
    for update in of_kind.get("summary", []):
        summary |= _values(update.update)
    configs = [run.config, *of_kind.get("config", [])]
    return Told(
        run=run,
        config={key: value for config in configs for key, value in _values(config.update).items()},
        history=[_values(row.item) for row in of_kind.get("history", [])],
        summary=summary,
        alerts=of_kind.get("alert", []),
        artifacts=of_kind.get("artifact", []),
        files=[file.path for files in of_kind.get("files", []) for file in files.files],
        stats=len(of_kind.get("stats", [])),
        status=of_kind["exit"][0].exit_code if "exit" in of_kind else None,
    )


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
