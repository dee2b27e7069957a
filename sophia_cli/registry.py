"""Finds what can be swapped: `find("backends", "hf")` imports `sophia_cli/backends/hf.py`, `names` only lists the folder."""

from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from sophia_cli.errors import UsageError


@cache
def names(kind: str) -> list[str]:
    """The choices of a kind: the files of its folder. Imports nothing."""
    folder = Path(__file__).parent / kind
    return sorted(path.stem.replace("_", "-") for path in folder.glob("*.py") if not path.stem.startswith("_"))


@cache
def find(kind: str, name: str) -> ModuleType:
    """The module of one choice. Raises UsageError that lists the choices."""
    if name not in names(kind):
        raise UsageError(f"{name}: no such choice among {kind}; choose from {', '.join(names(kind))}")
    return import_module(f"sophia_cli.{kind}.{name.replace('-', '_')}")
