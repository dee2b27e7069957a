"""Tests of training: the loss and its gradient, the loss mask, skipped rows, and the saved model."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.commands import ENVIRONMENT, SOPHIA, records_of, sophia, write_lines
from helpers.records import kept_records
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import AutoConfig, AutoModelForImageTextToText

from sophia_cli.errors import RecordError, SophiaError
from sophia_cli.models.aliases import resolve_model
from sophia_cli.models.families import internvl
from sophia_cli.objectives import sft, truncated
from sophia_cli.objectives import sophia as sophia_objective
from sophia_cli.records import Record
from sophia_cli.training import policy as policy_module
from sophia_cli.training import time_estimate
from sophia_cli.training import trainer as fitting
from sophia_cli.training.collator import IGNORE_INDEX, Collator, answer_after_prompt
from sophia_cli.training.config import TrainConfig
from sophia_cli.training.distributed import DistributedContext
from sophia_cli.training.examples import TrainExample, mixed_row, prompt_messages, tags_balance
from sophia_cli.training.logprobs import log_probabilities
from sophia_cli.training.loss_inputs import LossInputs
from sophia_cli.training.preflight import size_rows
from sophia_cli.training.run_state import SizedExample, TrainPlan
from sophia_cli.training.save import save_model
from sophia_cli.training.schedule import full_updates, learning_rate, share_batch, shuffle_updates

TRACE = "<think>\nI see red circle 3.\n</think>\nThe answer is \\boxed{3}."


@pytest.fixture(scope="module")
def encoder() -> Collator:
    return Collator(internvl.load_processor(resolve_model("tiny-vlm").path), 1024)


def naive_gradient(records: list[dict[str, Any]], normalize_by: str) -> dict[str, torch.Tensor]:
    """Returns the gradient of Eq. 7, written naively: one row at a time, log-softmax over the vocabulary, a sum, one
    division.
    """
    from transformers import AutoModelForImageTextToText

    model = resolve_model("tiny-vlm")
    policy = AutoModelForImageTextToText.from_pretrained(model.path, dtype=torch.float32).train()
    for name, parameter in policy.named_parameters():
        parameter.requires_grad = "vision_tower" not in name and "multi_modal_projector" not in name
    processor = internvl.load_processor(model.path)
    total, tokens = torch.zeros(()), 0
    for record in records:
        system = [
            {
                "role": "system",
                "content": "Think step by step inside <think> tags, then answer in the language of the question.",
            }
        ]
        from sophia_cli.io.images import open_image
        from sophia_cli.prompts import question_text

        user = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question_text(record)}]}]
        text = processor.tokenizer.apply_chat_template(system + user, add_generation_prompt=True, tokenize=False)
        inputs = processor(images=[open_image(record["image"])], text=[text], return_tensors="pt")
        answer = processor.tokenizer(record["trajectory"] + "<|im_end|>", add_special_tokens=False, return_tensors="pt")[
            "input_ids"
        ]
        ids = torch.cat([inputs["input_ids"], answer], dim=1)
        logits = policy(input_ids=ids, pixel_values=inputs["pixel_values"]).logits[0]
        start = inputs["input_ids"].shape[1]
        for position in range(start, ids.shape[1]):
            total = total - record["weight"] * torch.log_softmax(logits[position - 1], dim=-1)[ids[0, position]]
        tokens += answer.shape[1]
    (total / (tokens if normalize_by == "tokens" else len(records))).backward()
    return {name: parameter.grad for name, parameter in policy.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("normalize_by", ["tokens", "trajectories"])
@pytest.mark.parametrize("micro", [1, 2, 6])
def test_the_gradient_of_a_step_is_autograds_of_the_naive_loss_for_any_split(
    normalize_by: str, micro: int, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sophia_cli.training import engines
    from sophia_cli.training.dataset import read_trajectories
    from sophia_cli.training.preflight import size_rows
    from sophia_cli.training.run_state import TrainPlan
    from sophia_cli.training.trainer import train_with_loss

    records = kept_records(lab)
    wanted = naive_gradient(records, normalize_by)
    seen: dict[str, torch.Tensor] = {}

    def catch(engine: engines.DDPEngine, rate: float) -> float:
        parameters = engine.policy.named_parameters()
        seen.update({name: p.grad.clone() for name, p in parameters if p.grad is not None})
        return 0.0

    monkeypatch.setattr(engines.DDPEngine, "take_step", catch)
    monkeypatch.setattr("sophia_cli.training.logprobs.BLOCK_LOGITS", 3000)  # twenty tokens at a time
    asked_for = TrainConfig("sophia", 6, micro, 1e-3, 0.05, 0.25, normalize_by, 1.0, 1, 1024, 0)
    write_lines(tmp_path / "kept.jsonl", records)
    model = resolve_model("tiny-vlm")
    data = read_trajectories([str(tmp_path / "kept.jsonl")], [], None, model, 0, lambda text: None)
    plan = size_rows(TrainPlan([], data.left, model, asked_for, tmp_path / "out"), data.rows, lambda text: None)
    plan.open_work_dir(force=False)
    train_with_loss(plan, DistributedContext(), lambda fields: None)
    assert set(seen) == set(wanted)
    for name, gradient in wanted.items():
        assert (seen[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-9, name


def test_the_objectives_are_the_equations() -> None:
    logps, mask = torch.tensor([[-1.0, -2.0, -4.0], [-3.0, -5.0, -7.0]]), torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    weights, behavior_logp = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, math.nan])
    scored = LossInputs(logps, mask, weights, behavior_logp, 4)
    assert sophia_objective.loss(scored).item() == pytest.approx((2 * 3 + 0.5 * 12) / 4)
    assert sft.loss(scored).item() == pytest.approx((3 + 12) / 4)
    ratio = math.exp((-3 + 2) / 2)
    assert truncated.loss(scored).item() == pytest.approx((2 * ratio * 3 + 0.5 * 12) / 4)
    assert truncated.truncated_ratios(scored._replace(behavior_logp_B=torch.tensor([-9.0, -12.0]))).tolist() == [
        truncated.MAX_RATIO,
        1.0,
    ]


def test_importance_ratios_are_constants_to_the_gradient() -> None:
    logps = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    truncated.loss(LossInputs(logps, torch.ones(1, 2), torch.ones(1), torch.tensor([-2.0]), 1)).backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == [[pytest.approx(-math.exp(-0.5))] * 2]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.booleans())
def test_log_probabilities_in_blocks_are_those_of_all_logits(seed: int, block: int, some: bool) -> None:
    """Values, and gradients of hidden states and weights, for blocks of any size and any choice of tokens."""
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(2, 6, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 7, (2, 6), generator=draw)
    labels[torch.rand(2, 6, generator=draw) < (0.5 if some else 0.0)] = IGNORE_INDEX
    out = torch.randn(2, 5, generator=draw, dtype=torch.float64)
    wanted = torch.log_softmax(hidden @ weight.T, -1)[:, :-1].gather(2, labels[:, 1:, None].clamp(min=0))[..., 0]
    wanted = wanted * (labels[:, 1:] != IGNORE_INDEX)
    by_hand = torch.autograd.grad((wanted * out).sum(), (hidden, weight))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sophia_cli.training.logprobs.BLOCK_LOGITS", block)
        found = log_probabilities(hidden, weight, labels)
        ours = torch.autograd.grad((found * out).sum(), (hidden, weight))
    assert torch.allclose(found.double(), wanted, atol=1e-5)
    for mine, theirs in zip(ours, by_hand, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 7), st.integers(1, 5), st.integers(0, 99))
def test_every_row_of_an_epoch_is_in_one_micro_batch_of_one_process(
    count: int, batch: int, micro: int, size: int, seed: int
) -> None:
    lengths = [Random(seed + row).randrange(9) for row in range(count)]
    steps = shuffle_updates(count, batch, 1.0, None, seed)
    assert sorted(row for step in steps for row in step) == list(range(count))
    for step in steps:
        shares = [share_batch(step, lengths, micro, rank, size) for rank in range(size)]
        assert len({len(parts) for parts in shares}) == 1
        assert sorted(row for parts in shares for part in parts if not part.filler for row in part.rows) == sorted(step)
        assert all(1 <= len(part.rows) <= micro for parts in shares for part in parts)
        assert sum(part.filler for parts in shares for part in parts) < size


def test_the_learning_rate_is_a_cosine_that_ends_at_its_share() -> None:
    rates = [learning_rate(step, 100, 2e-5, 0.25) for step in range(101)]
    assert rates[0] == 2e-5 and rates[50] == pytest.approx(1.25e-5) and rates[100] == pytest.approx(0.5e-5)
    assert rates == sorted(rates, reverse=True)


def test_only_the_answer_and_its_end_token_are_supervised(encoder: Collator, lab: Path) -> None:
    record = kept_records(lab)[0]
    row = TrainExample("x", prompt_messages(record["question"], [record["image"]], TRACE, "short"), TRACE, 1.0)
    example = encoder.encode_row(row)
    supervised = example.labels[example.labels != IGNORE_INDEX]
    assert encoder.tokenizer.decode(supervised) == TRACE + "<|im_end|>"
    shown = encoder.tokenizer.decode(example.input_ids)
    assert shown.count("<IMG_CONTEXT>") == 9 and "Think step by step" in shown
    assert record["caption"] not in shown


def test_the_slow_thinking_prompt_goes_with_thinking_alone() -> None:
    assert [message["role"] for message in prompt_messages("q", [], TRACE, "short")] == ["system", "user"]
    assert [message["role"] for message in prompt_messages("q", [], "The answer is 3.", "short")] == ["user"]


@pytest.mark.parametrize(
    ("answer", "balanced"),
    [
        (TRACE, True), ("no tags", True), ("<think>open", False), ("closed</think>", False),
        ("</think><think>", False), ("<think></think><think></think>", False),
    ],
)  # fmt: skip
def test_tags_balance(answer: str, balanced: bool) -> None:
    assert tags_balance(answer) == balanced


@pytest.mark.slow
def test_untrainable_rows_are_skipped_named_and_counted(lab: Path, tmp_path: Path) -> None:
    good, *bad = kept_records(lab, 8)
    bad[0]["image"] = "gone.png"
    bad[1]["trajectory"] += " <IMG_CONTEXT>"
    bad[2]["question"] += " <IMG_CONTEXT>"
    bad[3]["trajectory"] = "<think>for ever"
    bad[4]["trajectory"] = TRACE.replace("circle", "circle " * 2000)
    bad[5]["trajectory"] += "<|im_end|> more"
    (tmp_path / "broken.png").write_bytes(b"no image")
    bad[6]["image"] = "broken.png"
    write_lines(tmp_path / "kept.jsonl", [good, *bad])
    done = sophia("train", "kept.jsonl", "--max-steps", "1", "--quiet", cwd=tmp_path)
    assert len(done.stderr.splitlines()) == len(bad)  # named, and nothing else
    final = records_of(done.stdout)[-1]
    causes = {
        "image does not open": 2, "image placeholder in the text": 2, "unbalanced thinking tags": 1, "too long": 1,
        "control token in the text": 1,
    }  # fmt: skip
    assert final["left_out"] == causes and final["rows"] == 1
    for record in bad:
        assert record["trajectory_id"] in done.stderr.decode()
    assert "image does not open: image gone.png cannot be read (No such file" in done.stderr.decode()


@pytest.mark.slow
def test_training_moves_the_language_model_alone_and_saves_a_whole_folder(lab: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    write_lines(tmp_path / "kept.jsonl", kept_records(lab))
    done = sophia("train", "kept.jsonl", "-o", "runs/out", "--epochs", "3", "--lr", "1e-3", cwd=tmp_path)
    metrics = records_of(done.stdout)
    assert [metric["step"] for metric in metrics[:-1]] == [1, 2, 3]
    assert metrics[-1]["model"] == "runs/out" and metrics[2]["loss"] < metrics[0]["loss"]
    assert metrics[2]["learning_rate"] >= 0.25e-3
    base, out = Path(resolve_model("tiny-vlm").path), tmp_path / "runs/out"
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in before.items()} == {
        n: (t.shape, t.dtype) for n, t in after.items()
    }
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any("vision_tower" in name or "multi_modal_projector" in name for name in moved)
    for file in base.iterdir():
        if file.name not in ("model.safetensors", "README.md"):
            assert (out / file.name).read_bytes() == file.read_bytes(), file.name
    assert "Eq. 7" in (out / "README.md").read_text() and "of kept.jsonl" in (out / "README.md").read_text()
    assert len({file.stat().st_mode for file in out.iterdir()}) == 1, "who reads one file reads all"
    manifest = json.loads((tmp_path / "runs/out.manifest.json").read_text())
    count = len(records_of(tmp_path / "kept.jsonl"))
    assert manifest["finished"] and manifest["counts"] == {"in": count, "out": count, "failed": 0} and manifest["tokens"] > 0
    assert manifest["settings"]["lr"] == 1e-3 and "torch" in manifest["versions"]
    rows = records_of(sophia("caption", str(lab / "imgs"), "--model", "runs/out", "-k", "1", cwd=tmp_path).stdout)
    assert len(rows) == 8 and rows[0]["caption_model"] == "runs/out"
    done = sophia("train", "kept.jsonl", "-o", "runs/out", cwd=tmp_path, code=2)
    assert "--force" in done.stderr.decode()


@pytest.mark.slow
def test_records_without_weights_are_propagated_and_it_is_reported(lab: Path, tmp_path: Path) -> None:
    done = sophia("train", "traj.jsonl", "-o", str(tmp_path / "out"), "--max-steps", "1", "--alpha", "0.5", cwd=lab)
    kept = records_of(sophia("propagate", "traj.jsonl", "--alpha", "0.5", "--selected", cwd=lab).stdout)
    assert records_of(done.stdout)[-1]["rows"] == len(kept) > 0
    assert f"alpha 0.5, keep 1): {len(kept)} of 32 kept" in done.stderr.decode()


@pytest.mark.slow
def test_weights_are_used_as_they_are_and_go_with_no_alpha(lab: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "kept.jsonl", [*kept_records(lab, 4), {**kept_records(lab, 8)[5], "weight": 0}])
    done = sophia("train", "kept.jsonl", "--alpha", "0.5", cwd=tmp_path, code=2)
    assert "--alpha" in done.stderr.decode()
    done = sophia("train", "kept.jsonl", "--max-steps", "1", cwd=tmp_path)
    assert records_of(done.stdout)[-1]["rows"] == 4


def test_records_with_and_without_weight_in_one_run_are_refused_by_line(lab: Path, tmp_path: Path) -> None:
    rows = kept_records(lab, 3)
    del rows[2]["weight"]
    write_lines(tmp_path / "kept.jsonl", rows)
    assert "kept.jsonl:3" in sophia("train", "kept.jsonl", cwd=tmp_path, code=2).stderr.decode()


def test_nothing_to_train_on_is_reported(lab: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "kept.jsonl", [{**row, "weight": 0.0} for row in kept_records(lab, 2)])
    done = sophia("train", "kept.jsonl", cwd=tmp_path, code=2)
    assert "no row to train on" in done.stderr.decode()


def test_limit_and_shard_take_their_part_of_the_records(lab: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "kept.jsonl", kept_records(lab, 8))
    write_lines(
        tmp_path / "graded.jsonl", [{**row, "image": str(lab / row["image"])} for row in records_of(lab / "traj.jsonl")]
    )
    counts = []
    for part in ([], ["--shard", "0/2"], ["--shard", "1/2"]):  # propagated whole, whatever is taken of it
        done = sophia("train", "graded.jsonl", "--alpha", "0.4", *part, "--dry-run", cwd=tmp_path)
        counts.append(int(re.search(r"train: (\d+) rows to train on", done.stderr.decode())[1]))
    assert counts[0] == counts[1] + counts[2] and abs(counts[1] - counts[2]) <= 1
    for options, rows in ((["--limit", "3"], 3), (["--shard", "1/3"], 3), (["--shard", "2/3"], 2)):
        done = sophia("train", "kept.jsonl", *options, "--dry-run", cwd=tmp_path)
        assert re.search(r"train: about \d+:\d\d:\d\d \(h:min:s\) at 40% of this machine's speed", done.stderr.decode())
        assert f"train: {rows} rows to train on" in done.stderr.decode()


@pytest.mark.slow
def test_other_rows_are_mixed_in_by_ratio(lab: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "kept.jsonl", kept_records(lab, 4))
    captions = [{**row, "image": str(lab / row["image"])} for row in records_of(lab / "caps.jsonl")]
    write_lines(tmp_path / "caps.jsonl", captions)
    write_lines(tmp_path / "qa.jsonl", [{"id": "t", "question": "1 + 1?", "answer": "2"}])
    options = ["--mix", "caps.jsonl:0.5", "--mix", "qa.jsonl", "--max-steps", "1", "-o", "out"]
    assert records_of(sophia("train", "kept.jsonl", *options, cwd=tmp_path).stdout)[-1]["rows"] == 4 + 2 + 1


def test_mixed_rows_of_every_kind() -> None:
    chat = mixed_row(
        Record(
            {"messages": [{"role": "user", "content": "look"}, {"role": "assistant", "content": "yes"}], "images": ["a.png"]}
        ),
        "short",
    )
    assert chat.images == ["a.png"] and chat.answer == "yes" and chat.weight == 1.0
    described = mixed_row(Record({"image": "a.png", "caption": "two stars", "caption_id": "x/c0"}), "short")
    assert described.answer == "two stars" and described.messages[0]["content"][1]["text"] == "Describe the image."
    kept = mixed_row(Record({"image": "a.png", "caption": "two stars", "trajectory": TRACE}), "short")
    assert kept.answer == "two stars"
    asked_row = mixed_row(Record({"question": "1 + 1?", "answer": "2"}), "short")
    assert asked_row.images == [] and asked_row.answer == "2"
    seen = mixed_row(Record({"question": "How many?", "answer": "2", "images": ["a.png"]}), "short")
    assert seen.images == ["a.png"]
    answer = {"role": "assistant", "content": "yes"}
    parts = [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "look"}]
    linked = mixed_row(Record({"messages": [{"role": "user", "content": parts}, answer]}), "short")
    assert linked.images == ["a.png"]
    for odd in ({"type": "video", "video": "a.mp4"}, {"type": "image_url"}, {"type": "text"}):
        with pytest.raises(RecordError, match="is not a chat"):
            mixed_row(Record({"messages": [{"role": "user", "content": [odd]}, answer]}), "short")


def test_what_failed_before_is_no_row_and_is_named(lab: Path, tmp_path: Path) -> None:
    rows = kept_records(lab, 2)
    lost = {"id": "f", "image": rows[0]["image"], "question": "?", "answer": "2", "caption_id": "f/c0", "error": "timeout"}
    write_lines(tmp_path / "kept.jsonl", [*rows, {**lost, "id": "g", "caption_id": "g/c0"}])
    write_lines(tmp_path / "caps.jsonl", [lost])
    done = sophia("train", "kept.jsonl", "--mix", "caps.jsonl", "--dry-run", cwd=tmp_path)
    said = done.stderr.decode()
    assert "0 of 0 rows of caps.jsonl mixed in" in said and "skipped: 2 failed before" in said
    assert all(f"train: {name}/c0 skipped, it failed before: timeout" in said for name in "fg")


def test_a_mix_of_fewer_rows_than_asked_for_says_so(lab: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "kept.jsonl", kept_records(lab, 4))
    write_lines(tmp_path / "text.jsonl", [{"id": f"t{n}", "question": f"{n}?", "answer": "1"} for n in range(3)])
    said = []
    for ratio in ("0.5", "2"):
        done = sophia("train", "kept.jsonl", "--mix", f"text.jsonl:{ratio}", "--dry-run", cwd=tmp_path)
        said += [line for line in done.stderr.decode().splitlines() if "mixed in" in line]
    first, second = said
    assert first.endswith("2 of 3 rows of text.jsonl mixed in")
    assert second.endswith("3 of 3 rows of text.jsonl mixed in; 2 per trajectory were requested, for 4 trajectories")


@pytest.mark.parametrize("stage", ["none", "zero2", pytest.param("zero3", marks=pytest.mark.long)])
def test_gradients_are_cut_as_asked(stage: str, lab: Path, tmp_path: Path) -> None:
    """0 means no clipping; the norm is always reported. Adam ignores a common factor, so weight decay and rate are equal."""
    write_lines(tmp_path / "kept.jsonl", kept_records(lab, 2))
    options = ["--max-steps", "2", "--batch-size", "1", "--lr", "1e-3", "--normalize-by", "trajectories"]
    options += ["--cpu-ranks", "1", "--deepspeed", stage]
    norms = {}
    for most in ("0", "1", "1e-9"):
        done = sophia("train", "kept.jsonl", *options, "--max-grad-norm", most, "-o", f"out{most}", cwd=tmp_path)
        norms[most] = [row["grad_norm"] for row in records_of(done.stdout) if "loss" in row]
    assert norms["0"][0] == norms["1"][0] == norms["1e-9"][0] > 1
    weights = [(tmp_path / f"out{most}/model.safetensors").read_bytes() for most in ("0", "1", "1e-9")]
    assert len(set(weights)) == 3
    assert "| max_grad_norm | 1e-09 |" in (tmp_path / "out1e-9/README.md").read_text()


@pytest.mark.parametrize(
    "options",
    [["--gpus", "7"], ["--cpu-ranks", "2", "--hostfile", "/nope"], ["--min-lr-ratio", "nan"]],
    ids=lambda each: each[0],
)
def test_what_is_not_there_or_no_number_is_refused(options: list[str], lab: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "kept.jsonl", kept_records(lab, 2))
    assert options[0] in sophia("train", "kept.jsonl", *options, "-o", "out", cwd=tmp_path, code=2).stderr.decode()


def test_an_answer_follows_what_the_template_has_opened() -> None:
    opened = "…<|im_start|>assistant\n<think>\n"
    assert answer_after_prompt("…assistant\n", TRACE) == TRACE
    assert answer_after_prompt(opened, "\n <think>\nso\n</think>\n2") == "so\n</think>\n2"
    assert answer_after_prompt(opened, "2") == "\n</think>\n\n2", "else it would learn a thinking that never closes"
    assert answer_after_prompt(opened, "") == ""


@pytest.mark.slow
def test_the_same_seed_trains_the_same_model(lab: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "kept.jsonl", kept_records(lab))
    runs = [sophia("train", "kept.jsonl", "-o", name, "--epochs", "2", cwd=tmp_path).stdout for name in ("a", "b")]
    losses = [[json.loads(line).get("loss") for line in run.splitlines()] for run in runs]
    assert losses[0] == losses[1]
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_the_plan_is_shown_before_anything_is_trained(lab: Path, tmp_path: Path) -> None:
    """Rows by source, steps, and the first example with its supervised part marked; nothing is written."""
    write_lines(tmp_path / "kept.jsonl", kept_records(lab, 4))
    write_lines(tmp_path / "qa.jsonl", [{"id": "t", "question": "1 + 1?", "answer": "2"}])
    done = sophia(
        "train", "kept.jsonl", "--mix", "qa.jsonl", "--batch-size", "2", "--epochs", "2", "--dry-run", cwd=tmp_path
    )
    shown = done.stderr.decode()
    assert done.stdout == b"" and not (tmp_path / "runs").exists()
    rows = {words[0]: words[1:3] for line in shown.splitlines() if (words := line.split()) and words[0].endswith(".jsonl")}
    assert rows == {"kept.jsonl": ["4", "4"], "qa.jsonl": ["1", "0"]}
    assert "6 steps of 2 rows" in shown and "1,066,368 of them train" in shown
    first = kept_records(lab, 4)[0]
    assert f"⟦{first['trajectory']}<|im_end|>⟧" in shown and "<IMG_CONTEXT>×9" in shown
    assert sophia("train", "kept.jsonl", "--dry-run", "--quiet", cwd=tmp_path).stderr == b""


def test_the_time_that_a_run_may_take(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its FLOPs divided by the speed of this machine; a row of twice the tokens takes a bit more than twice."""
    monkeypatch.setattr(time_estimate, "matmul_flops", lambda device: 1e9)
    model = resolve_model("tiny-vlm")
    settings = TrainConfig("sft", 2, 1, 1e-3, 0.0, 1.0, "tokens", 1.0, None, 1024, 0)
    row = TrainExample("r", [], "x", 1.0)

    def seconds(tokens: int, rows: int = 4, processes: int = 1, epochs: float = 1.0) -> float:
        plan = TrainPlan([SizedExample(row, tokens, 1)] * rows, {}, model, replace(settings, epochs=epochs), tmp_path)
        return time_estimate.estimated_seconds(plan, 1000, 500, processes, cuda=False) or 0.0

    text = AutoConfig.from_pretrained(model.path).get_text_config()
    attention = 12 * text.num_hidden_layers * text.hidden_size * 10_000
    assert seconds(100) == pytest.approx(
        4 * (100 * (4 * 1000 + 2 * 500) + attention) / (time_estimate.EXPECTED_UTILIZATION * 1e9)
    )
    assert seconds(100, rows=8) == pytest.approx(seconds(100, epochs=2.0)) == pytest.approx(2 * seconds(100))
    assert 2 * seconds(100) < seconds(200) < 4 * seconds(100)
    assert seconds(100, processes=2) == pytest.approx(seconds(100) / 2)


def passes_of_a_run(out: Path) -> tuple[list[int], list[dict[str, Any]]]:
    """Returns the rows of each forward pass of one update on four rows of different lengths, two at a time."""
    settings = TrainConfig("sft", 4, 2, 1e-3, 0.0, 1.0, "tokens", 1.0, 1, 1024, 0)
    rows = [TrainExample(str(n), [{"role": "user", "content": "1 + " * n + "1?"}], "2 " * (1 + n), 1.0) for n in range(4)]
    plan = size_rows(TrainPlan([], {}, resolve_model("tiny-vlm"), settings, out), rows, lambda text: None)
    plan.work_dir.mkdir()
    passes: list[int] = []
    told: list[dict[str, Any]] = []

    def note(module: torch.nn.Module, inputs: Any) -> None:
        if isinstance(module, torch.nn.Embedding):
            passes.append(len(inputs[0]))

    hook = register_module_forward_pre_hook(note)
    try:
        fitting.train_with_loss(plan, DistributedContext(), told.append)
    finally:
        hook.remove()
    return passes, told


def test_a_run_starts_with_a_warm_up_pass(tmp_path: Path) -> None:
    """The first pass of a process on CPUs is not always equal to the later ones."""
    assert passes_of_a_run(tmp_path / "out")[0] == [2, 2, 2]


def test_a_run_packs_its_rows_where_the_kernel_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, padded = passes_of_a_run(tmp_path / "padded")
    monkeypatch.setattr(fitting, "can_pack", lambda policy: True)
    passes, packed = passes_of_a_run(tmp_path / "packed")
    assert passes == [2, 1, 1]  # the first is the one that nobody takes
    assert packed[0]["loss"] == pytest.approx(padded[0]["loss"], rel=1e-5)
    assert packed[0]["grad_norm"] == pytest.approx(padded[0]["grad_norm"], rel=1e-4)


@pytest.mark.slow
def test_a_finished_run_typed_again_says_so_and_a_changed_one_is_refused(lab: Path, tmp_path: Path) -> None:
    options = ("--alpha", "0", "--max-steps", "1", "-o", str(tmp_path / "out"))
    sophia("train", "traj.jsonl", *options, cwd=lab)
    before = (tmp_path / "out" / "model.safetensors").stat()
    done = sophia("train", "traj.jsonl", *options, cwd=lab)
    after = (tmp_path / "out" / "model.safetensors").stat()
    assert b"is finished; nothing is left to do" in done.stderr and done.stdout == b""
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    done = sophia("train", "traj.jsonl", *options, "--lr", "1e-5", cwd=lab, code=2)
    assert b"was written with other settings (lr was" in done.stderr
    write_lines(
        tmp_path / "fewer.jsonl", [{**row, "image": str(lab / row["image"])} for row in records_of(lab / "traj.jsonl")[:20]]
    )
    done = sophia("train", str(tmp_path / "fewer.jsonl"), *options, cwd=lab, code=2)
    assert b"rows was" in done.stderr


@pytest.mark.parametrize(("objective", "kernel"), [("sophia", {"text_config": "flash_attention_2"}), ("mpo", None)])
def test_flash_attention_is_used_where_it_can_be_loaded(
    objective: str, kernel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bf16, and not in a trainer whose reference model would use another kernel."""
    asked: list[Any] = []

    def loaded(path: str, **options: Any) -> Any:
        asked.append(options["attn_implementation"])
        return AutoModelForImageTextToText.from_pretrained(path, output_loading_info=True)

    monkeypatch.setattr(policy_module, "has_flash_attention", lambda: True)
    monkeypatch.setattr(policy_module, "AutoModelForImageTextToText", SimpleNamespace(from_pretrained=loaded))
    settings = TrainConfig(objective, 4, 2, 1e-3, 0.0, 1.0, "tokens", 1.0, 1, 1024, 0)
    plan = TrainPlan([], {}, resolve_model("tiny-vlm"), settings, tmp_path)
    policy_module.load_policy(plan, torch.device("cpu"), bf16=True)
    policy_module.load_policy(plan, torch.device("cpu"), bf16=False)
    assert asked == [kernel, None]


@pytest.mark.slow
def test_many_rows_are_read_by_several_processes_as_by_one(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sophia_cli.training import preflight
    from sophia_cli.training.dataset import read_trajectories
    from sophia_cli.training.run_state import TrainPlan

    rows = kept_records(lab, 8)
    rows[3]["trajectory"], rows[5]["image"] = "<think>for ever", "gone.png"
    write_lines(tmp_path / "kept.jsonl", rows)
    model, found = resolve_model("tiny-vlm"), []
    asked_for = TrainConfig("sophia", 6, 1, 1e-3, 0.05, 0.25, "tokens", 1.0, 1, 1024, 0)
    data = read_trajectories([str(tmp_path / "kept.jsonl")], [], None, model, 0, lambda text: None)
    for many in (1000, 2):
        monkeypatch.setattr(preflight, "PARALLEL_THRESHOLD", many)
        told: list[str] = []
        plan = preflight.size_rows(TrainPlan([], data.left, model, asked_for, tmp_path / "out"), data.rows, told.append)
        found.append((plan.rows, plan.skipped, told))
    assert found[0] == found[1] and len(found[0][0]) == 6


@pytest.mark.slow
def test_trackers_get_metrics_and_the_curve_is_drawn(lab: Path, tmp_path: Path) -> None:
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_lines(tmp_path / "kept.jsonl", kept_records(lab, 4))
    options = ["--max-steps", "3", "--batch-size", "2", "-o", "out"]
    done = sophia("train", "kept.jsonl", *options, "--report-to", "tensorboard", cwd=tmp_path)
    losses = [row["loss"] for row in records_of(done.stdout)[:-1]]
    events = EventAccumulator(str(tmp_path / "out.tensorboard")).Reload()
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)
    with Image.open(tmp_path / "out" / "curve.png") as picture:
        assert picture.size == (960, 360)
    assert "curve.png" in (tmp_path / "out" / "README.md").read_text()
    for name, fault in (("wandb", "pip install wandb"), ("paper", "tensorboard")):
        done = sophia("train", "kept.jsonl", *options, "--report-to", name, cwd=tmp_path, code=2)
        assert fault in done.stderr.decode()


@pytest.mark.slow
def test_nothing_but_a_model_is_ever_replaced(lab: Path, tmp_path: Path) -> None:
    """An input, a folder without a model, and a draft folder of other origin are kept; a link stays a link."""
    import shutil

    (tmp_path / "data").mkdir()
    write_lines(tmp_path / "data" / "kept.jsonl", kept_records(lab, 4))
    shutil.copytree(resolve_model("tiny-vlm").path, tmp_path / "models" / "base")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("x")
    (tmp_path / "b.tmp").mkdir()
    (tmp_path / "b.tmp" / "mine.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    model = ["--model", "models/base", "--max-steps", "1", "--batch-size", "2", "--force"]
    for out in ("data", "models", "models/base", ".", "..", "notes", "b", "file"):
        done = sophia("train", "data/kept.jsonl", *model, "-o", out, cwd=tmp_path, code=2)
        assert "-o" in done.stderr.decode(), out
    assert (tmp_path / "notes/mine.txt").exists() and (tmp_path / "b.tmp/mine.txt").exists()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    sophia("train", "data/kept.jsonl", *model, "-o", "link", cwd=tmp_path)
    assert (tmp_path / "elsewhere" / "config.json").exists()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--epochs", "0"], "--epochs"), (["--epochs", "nan"], "--epochs"), (["--lr", "nan"], "--lr"),
        (["--deepspeed", "zero9"], "zero9"), (["--objective", "best"], "best"),
        (["--lora-rank", "2", "--train-vision"], "--merge-lora"), (["--merge-lora"], "--lora-rank"),
        (["--pairs", "2"], "--pairs"), (["--rollouts", "4"], "--rollouts"), (["--max-tokens", "9"], "--max-tokens"),
    ],
)  # fmt: skip
def test_odd_options_are_refused_before_anything_is_read(options: list[str], fault: str, tmp_path: Path) -> None:
    assert fault in sophia("train", "none.jsonl", *options, cwd=tmp_path, code=2).stderr.decode()


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_run(lab: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "kept.jsonl", kept_records(lab, 4))
    options = ["--max-steps", "3", "--batch-size", "2", "--lr", "1e30", "--seed", "-1", "-o", "out"]
    assert "lower --lr" in sophia("train", "kept.jsonl", *options, cwd=tmp_path, code=1).stderr.decode()
    assert not (tmp_path / "out").exists()


@given(st.integers(1, 30), st.integers(1, 30), st.floats(0.1, 4), st.integers(0, 9))
def test_whole_updates_take_every_row_as_often_as_any_other(count: int, size: int, epochs: float, seed: int) -> None:
    batches = full_updates(count, size, epochs, None, seed)
    assert len(batches) == math.ceil(epochs * count / size) and all(len(batch) == size for batch in batches)
    taken = [sum(batch.count(row) for batch in batches) for row in range(count)]
    assert max(taken) - min(taken) <= 1
    assert full_updates(count, size, epochs, None, seed) == batches


@pytest.mark.slow
def test_the_objective_of_the_docs_is_one_file(lab: Path, tmp_path: Path) -> None:
    """For one trajectory the mean over its tokens equals `sft`; for two, `even` is the mean of both."""
    root = Path(__file__).parent.parent.parent
    page = (root / "docs" / "adding-an-objective.md").read_text()
    shutil.copytree(root / "sophia_cli", tmp_path / "sophia_cli")
    (tmp_path / "sophia_cli" / "objectives" / "even.py").write_text(page.split("```python\n")[1].split("```")[0])
    rows = [{**row, "weight": 1.0} for row in kept_records(lab, 2)]

    def first_loss(objective: str, rows: list[dict[str, Any]]) -> float:
        write_lines(tmp_path / "rows.jsonl", rows)
        command = [*SOPHIA, "train", "rows.jsonl", "--objective", objective, "--max-steps", "1", "--force", "--quiet"]
        command += ["--normalize-by", "trajectories"] if objective == "even" else []
        done = subprocess.run(command, cwd=tmp_path, env={**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}, capture_output=True)
        assert done.returncode == 0, done.stderr
        return float(records_of(done.stdout)[0]["loss"])

    alone = [first_loss("sft", [row]) for row in rows]
    assert first_loss("even", rows) == pytest.approx(sum(alone) / 2, rel=1e-5)
    assert alone[0] != pytest.approx(alone[1], rel=1e-2)


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    """After the last step no loss would show them; the model at the output stays."""
    (tmp_path / "out").mkdir()
    plan = SimpleNamespace(out=tmp_path / "out", work_dir=tmp_path / "out.tmp")
    weights = {"fine": torch.ones(2), "spoilt": torch.tensor([1.0, math.nan])}
    with pytest.raises(SophiaError, match="spoilt contains NaN or infinite values"):
        save_model(plan, DistributedContext(), weights, None, 1)  # type: ignore[arg-type]
    assert (tmp_path / "out").is_dir() and not plan.work_dir.exists()
