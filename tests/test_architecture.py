"""Who may import whom (design.md), read off the source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sophia_cli"
STEPS = {
    "serve",
    "caption",
    "reason",
    "grade",
    "propagate",
    "train",
    "evaluate",
    "compare",
    "agreement",
    "world",
    "models",
    "stats",
    "export",
    "decontaminate",
}
CHOICES = {"backends", "verifiers", "objectives", "families", "exporters", "benchmarks"}
HEAVY = {
    "torch": {"backends", "training", "objectives"},
    "transformers": {"backends", "training", "families", "exporters"},
    "math_verify": {"verifiers"},
    "sympy": {"verifiers"},
    "datasets": set(),
    "vllm": {"backends"},
    "deepspeed": {"training"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path, top_level: bool = False) -> set[str]:
    """The dotted names that a file imports; with `top_level`, only outside functions and TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path) -> set[str]:
    """First components below the package that a file imports: `caption`, `backends`, …"""
    return {name.split(".")[1] for name in imports(path) if name.startswith("sophia_cli.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_layers_hold(path: Path) -> None:
    room, name = path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path.stem
    used = ours(path)
    if room not in {"cli", "__main__"}:
        assert "cli" not in used, "nothing imports cli"
    if room in STEPS:
        assert not used & (STEPS - {name}), "steps never import each other"
    elif room != "cli":
        assert not used & STEPS, "only cli imports steps"
    if name == "records":
        assert used <= {"errors"}, "records imports nothing of ours but the exceptions"
    if room in CHOICES and not name.startswith("_") and path.parent.name in CHOICES:
        siblings = {file.stem for file in path.parent.glob("*.py") if not file.stem.startswith("_")} - {name}
        named = {entry.split(".")[2] for entry in imports(path) if entry.startswith(f"sophia_cli.{room}.")}
        assert not named & siblings, "a choice imports no sibling"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_are_imported_only_in_the_files_about_them(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    for library, rooms in HEAVY.items():
        at_top = any(name.split(".")[0] == library for name in imports(path, top_level=True))
        assert not at_top or room in rooms, f"{library} at the top of {path.name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_nothing_of_a_models_text_is_ever_run_as_code() -> None:
    banned = {"eval", "exec", "sympify", "parse_expr", "literal_eval"}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in banned, f"{path.name}:{node.lineno}"
