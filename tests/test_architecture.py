"""Tests of the layout's rules: which folder may import which, and what no file imports at its top."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sophia_cli"
FILES = sorted(PACKAGE.rglob("*.py"))

TOP_LEVEL_FILES = {"__init__", "__main__", "errors", "records", "registry"}
LAYERS = (
    {"__main__"},
    {"cli"},
    {"steps"},
    {
        "analysis",
        "backends",
        "benchmarks",
        "decontamination",
        "evaluation",
        "exporters",
        "inference",
        "judge",
        "models",
        "objectives",
        "prompts",
        "rewards",
        "serving",
        "training",
        "verifier",
        "world",
    },
    {"io", "sources"},
    {"records", "registry"},
    {"runtime", "errors"},
)
"""From top to bottom: a folder imports only folders of its own layer and of the layers below it."""
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
CHOICES = {"backends", "benchmarks", "exporters", "models/families", "objectives"}
"""Folders of which each file is one choice; no choice imports another."""
HEAVY = {
    "torch": {"backends", "objectives", "training"},
    "transformers": {"backends", "exporters", "models", "training"},
    "math_verify": {"verifier"},
    "sympy": {"verifier"},
    "datasets": set(),
    "vllm": {"backends"},
    "deepspeed": {"training"},
}
"""Libraries that take long to import, and the folders whose files may import them at their top."""


def imported_modules(path: Path, top_level: bool = False) -> set[str]:
    """Returns the dotted names that a file imports; with `top_level`, only those outside functions and TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def folder_of(path: Path) -> str:
    """Returns the folder, or the top-level file, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_folders(path: Path) -> set[str]:
    """Returns the folders and top-level files of the package that a file imports."""
    names = {name.split(".")[1] for name in imported_modules(path) if name.startswith("sophia_cli.")}
    return {name for name in names if name in RANK} - {folder_of(path)}


def test_the_top_level_holds_only_what_the_design_names() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert files == TOP_LEVEL_FILES
    assert folders == set(RANK) - TOP_LEVEL_FILES


def test_a_folder_imports_only_its_own_layer_and_those_below() -> None:
    upward = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in FILES
        for name in imported_folders(path)
        if RANK[name] < RANK.get(folder_of(path), 0)
    ]
    assert not upward


def test_folders_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(folder_of(path), set()).update(imported_folders(path))

    def reachable(name: str, seen: set[str]) -> set[str]:
        for other in graph.get(name, set()) - seen:
            seen.add(other)
            reachable(other, seen)
        return seen

    assert not [name for name in graph if name in reachable(name, set())]


def test_steps_do_not_import_each_other() -> None:
    names = {path.stem for path in (PACKAGE / "steps").glob("*.py") if not path.stem.startswith("_")}
    for path in (PACKAGE / "steps").glob("*.py"):
        used = {name.split(".")[2] for name in imported_modules(path) if name.startswith("sophia_cli.steps.")}
        assert not used & (names - {path.stem}), path.name


@pytest.mark.parametrize("folder", sorted(CHOICES))
def test_a_choice_imports_no_other_choice(folder: str) -> None:
    choices = {path.stem for path in (PACKAGE / folder).glob("*.py") if not path.stem.startswith("_")}
    prefix = f"sophia_cli.{folder.replace('/', '.')}."
    for path in (PACKAGE / folder).rglob("*.py"):
        used = {name.removeprefix(prefix).split(".")[0] for name in imported_modules(path) if name.startswith(prefix)}
        assert not used & (choices - {path.stem}), path.name


def test_a_source_imports_no_other_source() -> None:
    sources = {path.stem for path in (PACKAGE / "sources").glob("*.py") if not path.stem.startswith("_")} - {"items"}
    for name in sources:
        used = imported_modules(PACKAGE / "sources" / f"{name}.py")
        assert not {f"sophia_cli.sources.{other}" for other in sources - {name}} & used, name


def test_heavy_libraries_are_imported_only_where_they_are_used() -> None:
    for path in FILES:
        libraries = {name.split(".")[0] for name in imported_modules(path, top_level=True)}
        for library in libraries & set(HEAVY):
            assert folder_of(path) in HEAVY[library], f"{library} at the top of {path.relative_to(PACKAGE)}"


def test_every_module_has_a_docstring() -> None:
    assert not [path for path in FILES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]


def test_model_text_is_never_run_as_code() -> None:
    banned = {"eval", "exec", "sympify", "parse_expr", "literal_eval"}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in banned, f"{path.name}:{node.lineno}"


def test_no_test_file_imports_another() -> None:
    tests = Path(__file__).parent
    names = {path.stem for path in tests.rglob("test_*.py")}
    for path in tests.rglob("*.py"):
        used = {part for name in imported_modules(path) for part in name.split(".")}
        assert not used & names, path.name
