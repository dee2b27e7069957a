"""Tests that a source which cannot be read is an error of the input: one line with the path, exit code 2."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import ENVIRONMENT, SOPHIA, sophia

from sophia_cli.errors import InputError
from sophia_cli.evaluation.benchmark_files import _json_rows
from sophia_cli.sources.items import count_items, read_items


def refused(*arguments: Any, **options: Any) -> Any:
    raise PermissionError(13, "Permission denied", str(arguments[0]))


@pytest.fixture
def no_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses to open any file, as for a user without the right; root may open everything, so a mode would not do."""
    monkeypatch.setattr(Path, "open", refused)
    monkeypatch.setattr(Path, "read_bytes", refused)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "folder", "folder/metadata.csv"])
def test_a_source_without_permission_is_named(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    file = tmp_path / name
    file = file / "metadata.jsonl" if not file.suffix else file
    file.parent.mkdir(exist_ok=True)
    file.write_text("{}")
    request.getfixturevalue("no_permission")
    source = str(file.parent if file.name.startswith("metadata") else file)
    with pytest.raises(InputError, match="Permission denied"):
        list(read_items(source))
    assert count_items(source) is None


def test_the_file_of_a_benchmark_is_named(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / "rows.json").write_text("[]")
    request.getfixturevalue("no_permission")
    with pytest.raises(InputError, match="rows.json: cannot be read .Permission denied.; check the path"):
        _json_rows(tmp_path / "rows.json")


def test_json_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    deep = "[" * 100_000
    (tmp_path / "folder/metadata.csv").write_text(f'file_name,question,answer,choices\na.png,?,1,"{deep}"\n')
    done = sophia("caption", "folder", "-k", "1", cwd=tmp_path, code=2)
    assert "folder" in done.stderr.decode().splitlines()[-1]
    (tmp_path / "rows.json").write_text(deep)
    done = sophia("eval", "--bench", "mathvision=rows.json", cwd=tmp_path, code=2)
    assert "rows.json" in done.stderr.decode().splitlines()[-1]


@pytest.mark.parametrize(
    "command", [["propagate", "--keep"], ["stats", "--keep"], ["grade", "--seed"], ["grade", "--limit"]]
)
def test_numbers_beyond_64_bits_are_refused(command: list[str], tmp_path: Path) -> None:
    done = sophia(*command, str(10**20), cwd=tmp_path, code=2)
    assert f"{command[1]} {10**20}: must be at most {2**63 - 1}" in done.stderr.decode()


def test_models_writes_stdout_as_every_command(tmp_path: Path) -> None:
    assert b"tiny-vlm" in sophia("models", cwd=tmp_path).stdout
    line = f"{' '.join(SOPHIA)} models > /dev/full"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=ENVIRONMENT, capture_output=True)
    assert done.returncode == 1 and b"stdout: cannot be written" in done.stderr
