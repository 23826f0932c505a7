"""The documents' links lead somewhere, and their commands are ones that there are."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from sspir.__main__ import COMMANDS, main
from sspir.config.compose import compose_config

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "experiments/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "examples" / "own" / "README.md",
]


def anchors(document: Path) -> set[str]:
    """What GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands() -> list[list[str]]:
    """The words of every `sspir` command that stands in a block of a document."""
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"```sh\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if "sspir" in words:
                    found.append(words[words.index("sspir") + 1 :])
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", document.read_text(encoding="utf-8")):
        file, _, heading = link.partition("#")
        target = (document.parent / file).resolve() if file else document
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


def test_flags_are_those_of_their_commands() -> None:
    helps: dict[str, str] = {}
    for words in commands():
        words = [*words[2:]] if words[:1] == ["--path"] else words
        command = words[0]
        assert command in COMMANDS, words
        if command not in helps:
            with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):
                main([command, "--help"])
            helps[command] = told.getvalue()
        flags = {word.partition("=")[0] for word in words[1:] if word.startswith("--")} - {"--help"}
        assert not [flag for flag in flags if flag not in helps[command]], words


@pytest.mark.thorough
def test_trainings_compose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSPIR_PATH", str(ROOT / "examples" / "own"))  # some show what is added there
    trainings = [words[1:] for words in commands() if words[0] == "train" and not any(w.startswith("-") for w in words)]
    assert len(trainings) > 20
    for overrides in trainings:
        compose_config("train", overrides)
