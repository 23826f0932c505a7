"""Print a constraint per dependency of pyproject.toml: its lowest version, and of torch the one that is installed."""

import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for requirement in [*project["dependencies"], *(each for name in extras if name != "ray" for each in extras[name])]:
    name, lowest = re.match(r"([\w.-]+)>=([\w.]+)", requirement).groups()
    lowest = version(name).partition("+")[0] if name in ("torch", "torchvision") else lowest
    sys.stdout.write(f"{name}=={lowest}\n")
