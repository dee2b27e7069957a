"""Finds what can be swapped by name: backends, objectives, families, exporters, benchmarks.

Each kind is a folder, each choice a file in it. `find("backends", "hf")` imports `sophia_cli/backends/hf.py`.
"""

from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from sophia_cli.errors import UsageError

_FOLDERS = {"families": "models/families"}
"""The folders of the kinds that do not lie at the top level."""


@cache
def names(kind: str) -> list[str]:
    """Lists the choices of a kind (the files of its folder) without importing any."""
    folder = Path(__file__).parent / _FOLDERS.get(kind, kind)
    return sorted(path.stem.replace("_", "-") for path in folder.glob("*.py") if not path.stem.startswith("_"))


@cache
def find(kind: str, name: str) -> ModuleType:
    """Imports the module of one choice.

    Raises:
        UsageError: there is no such choice; the message lists the choices.
    """
    if name not in names(kind):
        raise UsageError(f"{name}: not one of the {kind}; choose from {', '.join(names(kind))}")
    package = _FOLDERS.get(kind, kind).replace("/", ".")
    return import_module(f"sophia_cli.{package}.{name.replace('-', '_')}")
