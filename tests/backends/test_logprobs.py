"""Tests of `reason --logprobs`: log µ of each trajectory, and its use in training (Lemma A.3)."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.chat_server import ChatServer, completion
from helpers.commands import records_of, sophia, write_lines
from helpers.records import kept_records
from hypothesis import given
from hypothesis import strategies as st

from sophia_cli.backends._openai.chat_response import parse_response
from sophia_cli.inference.types import Completion, Failure
from sophia_cli.models.aliases import resolve_model
from sophia_cli.prompts import load_prompt
from sophia_cli.steps.reason import reasoning_request
from sophia_cli.training.importance_ratio import pool_stats, summary_stats


def test_log_probabilities_are_those_of_a_forward_pass_and_change_nothing_else(lab: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = records_of(sophia("reason", "caps.jsonl", "-n", "2", "--logprobs", cwd=lab).stdout)
    plain = records_of(lab / "raw.jsonl")
    assert [{name: v for name, v in row.items() if name != "trajectory_logprob"} for row in rows] == plain
    model = resolve_model("tiny-reasoner")
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    reasoner = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float64)
    for row in rows[::7]:
        chat = reasoning_request(row, load_prompt("reason", model.prompt_style))
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        said = [*tokenizer(row["trajectory"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        logps = reasoner(torch.tensor([asked + said])).logits[0].log_softmax(-1)
        wanted = sum(logps[len(asked) - 1 + place, token].item() for place, token in enumerate(said))
        assert row["trajectory_tokens"] == len(said)
        assert row["trajectory_logprob"] == pytest.approx(wanted, abs=2e-6)
        assert row["trajectory_logprob"] == round(row["trajectory_logprob"], 6)


def test_a_cut_off_trajectory_counts_its_tokens_alone(lab: Path) -> None:
    """In any batch: other rows end at other positions and have other limits."""
    rows = records_of(sophia("reason", "caps.jsonl", "-n", "1", "--logprobs", "--max-tokens", "50", cwd=lab).stdout)
    alone = records_of(
        sophia("reason", "caps.jsonl", "-n", "1", "--logprobs", "--max-tokens", "50", "--limit", "1", cwd=lab).stdout
    )
    assert alone == rows[:1]
    assert all(row["trajectory_logprob"] <= 0 for row in rows)


def answer(count: int, tokens: int) -> bytes:
    body = completion({"model": "m", "messages": [], "seed": 0})
    body["usage"] = {"completion_tokens": tokens}
    body["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": -0.5}] * count}
    return json.dumps(body).encode()


def test_servers_log_probabilities_are_summed_and_must_be_of_all_tokens() -> None:
    whole, without_end = parse_response(answer(4, 4), logprobs=True), parse_response(answer(3, 4), logprobs=True)
    assert isinstance(whole, Completion) and whole.logprob == -2.0
    assert isinstance(without_end, Completion) and without_end.logprob == -1.5
    assert isinstance(parse_response(answer(2, 4), logprobs=True), Failure)
    assert parse_response(answer(4, 4)) == Completion(whole.text, 4, whole.finish_reason)


def test_a_server_without_log_probabilities_is_named(lab: Path) -> None:
    with ChatServer() as server:
        options = ["--base-url", server.url, "--llm", "m", "-n", "1", "--limit", "1", "--logprobs"]
        row = records_of(sophia("reason", "caps.jsonl", *options, cwd=lab, code=3).stdout)[0]
    assert "--logprobs" in row["error"] and "trajectory" not in row
    assert server.served[0]["logprobs"] is True


@pytest.mark.slow
def test_training_reports_how_far_the_assumption_holds(lab: Path, tmp_path: Path) -> None:
    rows = [{**row, "trajectory_logprob": -3.0 * index} for index, row in enumerate(kept_records(lab, 4))]
    options = ["--epochs", "1", "--batch-size", "4", "--micro-batch-size", "3"]
    write_lines(tmp_path / "kept.jsonl", rows)
    done = sophia("train", "kept.jsonl", *options, cwd=tmp_path)
    told: dict[str, Any] = records_of(done.stdout)[0]
    assert set(told["log_ratio"]) == {"mean", "std", "min", "max", "n"} == set(told["log_ratio_per_token"])
    assert abs(told["log_ratio_per_token"]["mean"]) < abs(told["log_ratio"]["mean"])
    assert "4 of 4 trajectories have log µ" in done.stderr.decode()
    assert "log π − log µ of 4 trajectories: " in done.stderr.decode()
    assert records_of(done.stdout)[-1]["log_ratio"] == told["log_ratio"]
    ours = records_of(sophia("train", "kept.jsonl", *options, "--objective", "truncated", "-o", "t", cwd=tmp_path).stdout)
    assert ours[0]["loss"] != told["loss"] and ours[0]["log_ratio"] == told["log_ratio"]
    write_lines(tmp_path / "bare.jsonl", kept_records(lab, 4))
    done = sophia("train", "bare.jsonl", *options, "-o", "bare", cwd=tmp_path)
    assert "is not checked" in done.stderr.decode() and "log_ratio" not in records_of(done.stdout)[0]
    done = sophia("train", "bare.jsonl", *options, "--objective", "truncated", "-o", "no", cwd=tmp_path, code=2)
    assert "--logprobs" in done.stderr.decode()


@given(st.lists(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=5), min_size=1, max_size=5))
def test_spreads_of_parts_are_those_of_the_whole(parts: list[list[float]]) -> None:
    updates = [
        {"log_ratio": summary_stats(tuple(part)), "log_ratio_per_token": summary_stats(tuple(part))} for part in parts
    ]
    whole = summary_stats(tuple(value for part in parts for value in part))
    found = pool_stats([*updates, {"loss": 1.0}])["log_ratio"]
    assert found == {name: pytest.approx(value, rel=1e-9, abs=1e-6) for name, value in whole.items()}
    assert pool_stats([{"loss": 1.0}]) == {}


def test_spreads() -> None:
    assert summary_stats((1.0, 3.0)) == {"mean": 2.0, "std": 1.0, "min": 1.0, "max": 3.0, "n": 2}
    assert math.isclose(summary_stats((0.1,) * 10)["mean"], 0.1)
