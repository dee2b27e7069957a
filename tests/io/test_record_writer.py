"""Tests of output files that are started, killed and resumed."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers.commands import ENVIRONMENT, SOPHIA, records_of, sophia, write_lines
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sophia_cli.io.manifest import Manifest
from sophia_cli.io.record_writer import RecordWriter
from sophia_cli.records import Record


def written(file: Path, rows: list[Record], ordered: bool = False) -> list[Record]:
    """Runs a step that writes `rows` to a file, skipping finished ones; returns the rows that it wrote."""
    output = RecordWriter("name", None, file, Manifest(file, "step", {"a": 1}), keeps_order=ordered)
    todo = [row for row in rows if not output.skip_finished(row["name"])]
    for row in todo:
        output.write(row)
    output.close(True, len(rows))
    return todo


ROWS = [Record({"name": f"r{number}", "text": "ü" * number}) for number in range(12)]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_cut_anywhere_is_completed(suffix: str, data: st.DataObject, tmp_path: Path) -> None:
    file = tmp_path / f"out.jsonl{suffix}"
    for path in tmp_path.iterdir():
        path.unlink()
    written(file, ROWS)
    whole = file.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    file.write_bytes(whole[:cut])
    written(file, ROWS)
    completed = RecordWriter("name", None, file, Manifest(file, "step", {"a": 1}))
    assert completed.finished_ids == {row["name"]: 1 for row in ROWS}
    completed.close(True, 0)
    if not suffix:
        assert file.read_bytes() == whole


def test_records_with_an_error_are_retried_without_duplicates(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    broken = [Record({**row, "error": "no luck"}) if number % 3 == 0 else row for number, row in enumerate(ROWS)]
    written(file, broken)
    todo = written(file, ROWS)
    assert [row["name"] for row in todo] == ["r0", "r3", "r6", "r9"]
    assert sorted(row["name"] for row in records_of(file)) == sorted(row["name"] for row in ROWS)


def test_an_ordered_step_keeps_the_order_of_its_input_after_errors(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    written(file, [Record({**row, "error": "x"}) if number == 5 else row for number, row in enumerate(ROWS)], ordered=True)
    written(file, ROWS, ordered=True)
    assert [row["name"] for row in records_of(file)] == [row["name"] for row in ROWS]


def test_other_settings_are_refused_by_name_and_force_starts_over(lab: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "kept.jsonl")
    sophia("propagate", "traj.jsonl", "-o", out, cwd=lab)
    before = Path(out).read_bytes()
    done = sophia("propagate", "traj.jsonl", "--alpha", "0.5", "-o", out, cwd=lab, code=2)
    assert "alpha was 0.75, is 0.5" in done.stderr.decode()
    assert Path(out).read_bytes() == before
    sophia("propagate", "traj.jsonl", "--alpha", "0.5", "-o", out, "--force", cwd=lab)
    assert len(records_of(Path(out))) == len(records_of(before))


def test_the_manifest_tells_command_settings_versions_and_counts(lab: Path, tmp_path: Path) -> None:
    out = tmp_path / "caps.jsonl"
    sophia("caption", "imgs", "-k", "2", "--limit", "3", "-o", str(out), cwd=lab)
    manifest = json.loads((tmp_path / "caps.jsonl.manifest.json").read_text())
    assert manifest["command"] == "caption" and manifest["finished"] is True
    assert manifest["settings"]["k"] == 2 and manifest["settings"]["model"] == "tiny-vlm"
    assert manifest["counts"] == {"in": 3, "out": 6, "failed": 0}
    assert manifest["tokens"] == sum(record["caption_tokens"] for record in records_of(out))
    assert manifest["versions"]["torch"] and manifest["seconds"] > 0
    sophia("caption", "imgs", "-k", "2", "-o", str(out), cwd=lab)  # --limit may change
    assert sorted(out.read_bytes().splitlines()) == sorted((lab / "caps.jsonl").read_bytes().splitlines())


def test_tee_replays_what_is_done(lab: Path, tmp_path: Path) -> None:
    tee = str(tmp_path / "traj.jsonl")
    whole = sophia("grade", "raw.jsonl", "--tee", tee, cwd=lab).stdout
    assert whole == Path(tee).read_bytes() == (lab / "traj.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    Path(tee).write_bytes(b"".join(lines[:5]) + lines[5][:7])
    assert sophia("grade", "raw.jsonl", "--tee", tee, cwd=lab).stdout == whole
    assert Path(tee).read_bytes() == whole


def test_duplicates_in_the_input_stay_duplicates_when_continued(lab: Path, tmp_path: Path) -> None:
    first = (lab / "raw.jsonl").read_bytes().splitlines(keepends=True)[0]
    (tmp_path / "raw.jsonl").write_bytes(first * 3)
    sophia("grade", "raw.jsonl", "-o", "traj.jsonl", cwd=tmp_path)
    whole = (tmp_path / "traj.jsonl").read_bytes()
    (tmp_path / "traj.jsonl").write_bytes(whole[: len(whole) // 3 + 5])
    sophia("grade", "raw.jsonl", "-o", "traj.jsonl", cwd=tmp_path)
    assert (tmp_path / "traj.jsonl").read_bytes() == whole


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_flushes_and_exits_130(sent: signal.Signals, lab: Path, tmp_path: Path) -> None:
    rows = (lab / "raw.jsonl").read_bytes()
    step = subprocess.Popen(
        [*SOPHIA, "grade", "-o", "traj.jsonl"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        # a shell that runs tests in the background ignores SIGINT, and its children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert step.stdin and step.stderr
    step.stdin.write(rows)
    step.stdin.flush()
    wait_for_lines(tmp_path / "traj.jsonl", rows.count(b"\n"))
    step.send_signal(sent)
    assert step.wait(timeout=60) == 130
    assert b"Traceback" not in step.stderr.read()
    assert (tmp_path / "traj.jsonl").read_bytes() == (lab / "traj.jsonl").read_bytes()


def wait_for_lines(file: Path, count: int, seconds: float = 120) -> None:
    """Waits until a file has this many lines."""
    for _ in range(int(seconds * 20)):
        if file.exists() and file.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"{file} never held {count} lines")


PIPELINE = (
    "{0} caption imgs -k 2 --tee {1}/caps.jsonl | {0} reason -n 2 --tee {1}/raw.jsonl"
    " | {0} grade --tee {1}/traj.jsonl > {1}/all.jsonl"
)


@pytest.mark.slow
@pytest.mark.parametrize("fewest", [1, 9, 20])
def test_a_pipeline_killed_anywhere_and_run_again_has_the_records_of_an_undisturbed_run(
    fewest: int, lab: Path, tmp_path: Path
) -> None:
    command = PIPELINE.format(" ".join(SOPHIA), tmp_path)
    victim = subprocess.Popen(
        ["bash", "-c", command], cwd=lab, env=ENVIRONMENT, start_new_session=True, stderr=subprocess.DEVNULL
    )
    watched = tmp_path / ("caps.jsonl" if fewest == 1 else "traj.jsonl")
    wait_for_lines(watched, min(fewest, 16))
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    subprocess.run(["bash", "-c", "set -o pipefail; " + command], cwd=lab, env=ENVIRONMENT, check=True, capture_output=True)
    for name in ("caps.jsonl", "raw.jsonl", "traj.jsonl"):
        assert sorted((tmp_path / name).read_bytes().splitlines()) == sorted((lab / name).read_bytes().splitlines())
    assert sorted((tmp_path / "all.jsonl").read_bytes().splitlines()) == sorted(
        (lab / "traj.jsonl").read_bytes().splitlines()
    )


def test_a_file_of_another_step_is_refused(lab: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "x.jsonl", [{"id": "a"}])
    done = sophia("grade", str(lab / "raw.jsonl"), "-o", "x.jsonl", cwd=tmp_path, code=2)
    assert "x.jsonl.manifest.json" in done.stderr.decode()


@pytest.mark.parametrize("command", [["reason", "caps.jsonl", "-n", "2"], ["grade", "raw.jsonl"]])
def test_a_finished_command_typed_again_says_so(command: list[str], lab: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out.jsonl")
    sophia(*command, "-o", out, cwd=lab)
    before = Path(out).stat()
    done = sophia(*command, "-o", out, cwd=lab)
    assert b"nothing is left to do" in done.stderr
    assert (Path(out).stat().st_ino, Path(out).stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
