"""Tests against a real vLLM on a CPU, with the embedded models. `make test-vllm` installs it and runs them."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import ENVIRONMENT, SOPHIA, records_of, sophia
from helpers.small_models import FAMILIES, make_model

VLLM = Path(__file__).parent.parent.parent / ".venv-vllm" / "bin"
PATIENCE_SECONDS = 300.0
pytestmark = pytest.mark.vllm


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sets the folder of the servers' logs, and puts vLLM on PATH."""
    assert (VLLM / "vllm").exists(), "make test-vllm installs it"
    monkeypatch.setitem(ENVIRONMENT, "PATH", f"{VLLM}:{os.environ['PATH']}")
    monkeypatch.setitem(ENVIRONMENT, "XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def servers() -> list[str]:
    """Returns the running processes of vLLM (lines of ps): the servers and the processes that they have renamed."""
    listed = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    marks = ("vllm.entrypoints", "VLLM::")
    return [line for line in listed if any(mark in line for mark in marks) and not line.startswith("Z")]


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def agreement(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], key: str, text: str) -> float:
    """Returns the share of words in the common prefixes of two backends' texts."""
    other = {row[key]: row[text].split() for row in theirs}
    same = total = 0
    for row in ours:
        words = row[text].split()
        common = next((i for i, pair in enumerate(zip(words, other[row[key]], strict=False)) if pair[0] != pair[1]), None)
        same += min(len(words), len(other[row[key]])) if common is None else common
        total += max(len(words), len(other[row[key]]))
    return same / total


@pytest.mark.parametrize(
    ("step", "key", "text", "length"),
    [
        (("caption", "imgs", "-k", "1"), "caption_id", "caption", "caption_tokens"),
        (("reason", "caps.jsonl", "-n", "1"), "trajectory_id", "trajectory", "trajectory_tokens"),
        (("eval", "--data", "imgs"), "sample_id", "response", "response_tokens"),
    ],
)
def test_greedy_answers_are_those_of_transformers(
    step: tuple[str, ...], key: str, text: str, length: str, lab: Path, state: Path
) -> None:
    ours = records_of(sophia(*step, "--temperature", "0", cwd=lab).stdout)
    theirs = records_of(sophia(*step, "--temperature", "0", "--backend", "vllm", cwd=lab).stdout)
    assert not servers()
    assert {row[key]: list(row) for row in ours} == {row[key]: list(row) for row in theirs}
    assert agreement(ours, theirs, key, text) >= 0.95
    lengths = {row[key]: (row[text], row[length]) for row in ours}
    assert all(row[length] == lengths[row[key]][1] for row in theirs if row[text] == lengths[row[key]][0])


def test_a_trained_model_answers_as_in_transformers_and_ends(lab: Path, state: Path, tmp_path: Path) -> None:
    """vLLM loads the saved folder unchanged: same chat template, same end token, no endless repetition."""
    sophia("train", "traj.jsonl", "--max-steps", "6", "--batch-size", "8", "-o", str(tmp_path / "out"), cwd=lab)
    asked = ("eval", "--data", "imgs", "-m", str(tmp_path / "out"), "--temperature", "0")
    ours = records_of(sophia(*asked, cwd=lab).stdout)
    theirs = records_of(sophia(*asked, "--backend", "vllm", cwd=lab).stdout)
    same = agreement(ours, theirs, "sample_id", "response")
    assert same >= 0.7  # a model that has learnt for six steps is often in two minds
    assert all(row["finish_reason"] == "stop" for row in (*ours, *theirs))


def test_log_probabilities_are_those_of_transformers(lab: Path, state: Path) -> None:
    asked = ("reason", "caps.jsonl", "-n", "1", "--temperature", "0", "--logprobs")
    ours = {row["trajectory_id"]: row for row in records_of(sophia(*asked, cwd=lab).stdout)}
    theirs = records_of(sophia(*asked, "--backend", "vllm", cwd=lab).stdout)
    same = [row for row in theirs if row["trajectory"] == ours[row["trajectory_id"]]["trajectory"]]
    assert len(same) >= 8
    for row in same:
        assert row["trajectory_logprob"] == pytest.approx(ours[row["trajectory_id"]]["trajectory_logprob"], abs=0.05)


def test_samples_depend_on_their_seeds_alone(lab: Path, state: Path) -> None:
    command = [*SOPHIA, "serve", "tiny-reasoner"]
    popen = subprocess.Popen(command, cwd=lab, env=ENVIRONMENT, stdout=subprocess.PIPE)
    with popen as server, contextlib.ExitStack() as stack:
        assert server.stdout is not None
        stack.callback(server.send_signal, signal.SIGTERM)  # a test that fails must not wait for it for ever
        url = json.loads(server.stdout.readline())["base_url"]
        asked = ("reason", "caps.jsonl", "-n", "3", "--limit", "4", "--base-url", url)
        together = records_of(sophia(*asked, cwd=lab).stdout)
        alone = records_of(sophia(*asked, "--concurrency", "1", cwd=lab).stdout)
        texts = {row["trajectory_id"]: row["trajectory"] for row in alone}
        assert len(texts) == 12 and len(set(texts.values())) > 4
        assert sum(texts[row["trajectory_id"]] == row["trajectory"] for row in together) >= 11
        other = records_of(sophia(*asked, "--seed", "1", cwd=lab).stdout)
        assert any(texts[row["trajectory_id"]] != row["trajectory"] for row in other)
    assert server.returncode == 130 and not servers()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_engine_is_gone_however_the_client_ends(number: signal.Signals, lab: Path, state: Path, tmp_path: Path) -> None:
    out = tmp_path / "raw.jsonl"
    command = [*SOPHIA, "reason", "caps.jsonl", "-n", "400", "--backend", "vllm", "--concurrency", "4", "-o", str(out)]
    with subprocess.Popen(command, cwd=lab, env=ENVIRONMENT) as client, contextlib.ExitStack() as stack:
        stack.callback(client.send_signal, number)
        wait_for(lambda: out.exists() and out.stat().st_size)
        assert servers()
    wait_for(lambda: not servers())


@pytest.mark.parametrize("family", FAMILIES[1:])
def test_the_other_families_are_loaded_after_training(family: str, lab: Path, state: Path, tmp_path: Path) -> None:
    """Tiny random models of the real classes: their output is noise, but there is output."""
    make_model(family, tmp_path / "before")
    steps = ["--max-steps", "1", "--batch-size", "4", "--micro-batch-size", "2"]
    sophia("train", "traj.jsonl", "-m", str(tmp_path / "before"), *steps, "-o", str(tmp_path / "after"), cwd=lab)
    served = ["--backend", "vllm", "--server-options", "--max-model-len 1024 --gpu-memory-utilization 0.2"]
    asked = ["--limit", "3", "--temperature", "0", "--max-tokens", "12"]
    rows = records_of(sophia("eval", "--data", "imgs", "-m", str(tmp_path / "after"), *asked, *served, cwd=lab).stdout)
    assert len(rows) == 3 and all(row["response"] for row in rows)
