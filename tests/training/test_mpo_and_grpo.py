"""Tests of MPO and GRPO: losses, groups without a signal, exact resume, several processes, refused inputs."""

import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.commands import ENVIRONMENT, SOPHIA, records_of, sophia, write_lines
from helpers.small_models import write_zero3
from helpers.trained_models import BASE, curve, difference, killed
from safetensors.torch import load_file

from sophia_cli.errors import SophiaError
from sophia_cli.io.shards import Shard
from sophia_cli.models.aliases import resolve_model
from sophia_cli.objectives import grpo, mpo
from sophia_cli.rewards.trajectory import SelectionRule
from sophia_cli.training.collator import IGNORE_INDEX, Collator
from sophia_cli.training.config import TrainConfig
from sophia_cli.training.dataset import TrainingData, read_pairs, read_questions
from sophia_cli.training.distributed import DistributedContext
from sophia_cli.training.examples import TrainExample
from sophia_cli.training.policy import load_policy, make_encoder
from sophia_cli.training.preflight import size_rows
from sophia_cli.training.run_state import TrainPlan, reference_count
from sophia_cli.training.trl_trainer import trainer_arguments

PAIRS = ["--objective", "mpo", "--batch-size", "2", "--micro-batch-size", "1", "--lr", "1e-4", "--max-steps", "5"]
QUESTIONS = ["--objective", "grpo", "--batch-size", "2", "--micro-batch-size", "4", "--lr", "1e-4", "--max-steps", "5"]
FOUR = ["--batch-size", "4", "--lr", "1e-3"]
WRONG = "<think>\nThere are 9 shapes.\n</think>\nThe answer is \\boxed{none}."


@pytest.fixture(scope="module")
def data(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Right and wrong trajectories of three items, and a question without an image."""
    folder = tmp_path_factory.mktemp("preferences")
    found: dict[str, dict[str, Any]] = {}
    for row in records_of(lab / "traj.jsonl"):
        if row["reward"] == 1.0:
            found.setdefault(row["id"], {**row, "image": str(lab / row["image"])})
    right = list(found.values())[:3]
    wrong = [{**row, "trajectory": WRONG, "trajectory_id": f"{row['id']}/c0/t9", "reward": 0.0} for row in right]
    write_lines(folder / "kept.jsonl", [*right, *wrong])
    write_zero3(folder)
    return folder


def plan_of(found: TrainingData, objective: str, out: Path) -> TrainPlan:
    settings = TrainConfig(objective, 2, 2, 1e-4, 0.05, 0.25, "tokens", 1.0, None, 1024, 0, rollouts=4, max_tokens=16)
    return size_rows(TrainPlan([], found.left, resolve_model("tiny-vlm"), settings, out), found.rows, lambda text: None)


def log_probability(model: Any, encoder: Collator, row: TrainExample) -> torch.Tensor:
    """Returns log π(y) of a row's answer, token by token from whole logits."""
    ((example,), by_image) = encoder.encode_rows([row])
    inputs = {name: value[None] for name, value in {"input_ids": example.input_ids, **example.by_token}.items()}
    logits = model(**inputs, **by_image).logits[0].log_softmax(-1)
    places = (example.labels != IGNORE_INDEX).nonzero()[:, 0]
    return torch.stack([logits[place - 1, example.labels[place]] for place in places]).sum()


def test_mpo_is_its_equation(data: Path, tmp_path: Path) -> None:
    """0.8 sigmoid, 0.2 BCO and the likelihood of the right answers, for a policy that has moved away from its reference."""
    from transformers import AutoModelForImageTextToText

    model = resolve_model("tiny-vlm")
    found = read_pairs([str(data / "kept.jsonl")], SelectionRule(), 1, model, lambda text: None, Shard(), None)
    plan = plan_of(found, "mpo", tmp_path / "out")
    encoder, policy = make_encoder(plan), load_policy(plan, torch.device("cpu"), bf16=False)
    trainer = mpo.make_trainer(plan, policy, encoder, trainer_arguments(plan, DistributedContext(), None))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.003 * torch.randn_like(parameter))
    loss = trainer.compute_loss(policy, trainer.data_collator([{"row": 0}, {"row": 1}])).item()
    base, moved = (AutoModelForImageTextToText.from_pretrained(model.path, dtype=torch.float32) for _ in range(2))
    moved.load_state_dict(policy.state_dict())
    parts, supervised, tokens = [], 0.0, 0
    for sized in plan.rows[:2]:
        wrong = TrainExample("", sized.row.messages, str(sized.row.rejected), 1.0)
        with torch.no_grad():
            likely = log_probability(moved, encoder, sized.row)
            up = mpo.BETA * (likely - log_probability(base, encoder, sized.row))
            down = mpo.BETA * (log_probability(moved, encoder, wrong) - log_probability(base, encoder, wrong))
        sigmoid, pulled = (torch.nn.functional.logsigmoid(v).item() for v in (up - down, up))
        parts.append(-0.8 * sigmoid - 0.2 * (pulled + torch.nn.functional.logsigmoid(-down).item()))
        supervised, tokens = supervised - likely.item(), tokens + encoder.encode_row(sized.row).supervised_tokens
        assert abs((up - down).item()) > 0.01
    assert loss == pytest.approx(sum(parts) / 2 + supervised / tokens, rel=1e-4)


def test_what_teaches_nothing_counts_nowhere(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that is all right, a mixed one, and one without verdicts: only the mixed one keeps its tokens."""
    found = read_questions([str(data / "kept.jsonl")], resolve_model("tiny-vlm"), Shard(), None)
    plan = plan_of(found, "grpo", tmp_path / "out")
    policy = load_policy(plan, torch.device("cpu"), bf16=False)
    trainer = grpo.make_trainer(plan, policy, make_encoder(plan), trainer_arguments(plan, DistributedContext(), None))
    rewards = iter([1.0] * 4 + [0.0, 1.0, 0.0, 0.0] + [None] * 4)
    monkeypatch.setattr(grpo, "verify", lambda *given, **more: SimpleNamespace(reward=next(rewards)))
    inputs = [trainer.train_dataset[question] for question in range(3) for _ in range(4)]
    scored = trainer._generate_and_score_completions(inputs)
    tokens = scored["completion_mask"].sum(dim=1)
    assert (tokens > 0).tolist() == [False] * 4 + [True] * 4 + [False] * 4
    assert scored["num_items_in_batch"] == tokens.sum()
    mean, deviation = 0.25, math.sqrt(0.25)
    wanted = [(reward - mean) / (deviation + 1e-4) for reward in (0.0, 1.0, 0.0, 0.0)]
    assert scored["advantages"][4:8].tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("objective", ["mpo", "grpo"])
def test_an_image_that_vanishes_is_named(objective: str, data: Path, tmp_path: Path) -> None:
    shutil.copy(records_of(data / "kept.jsonl")[0]["image"], tmp_path / "image.png")
    rows = [{**row, "image": str(tmp_path / "image.png")} for row in records_of(data / "kept.jsonl")]
    write_lines(tmp_path / "kept.jsonl", rows)
    model, file = resolve_model("tiny-vlm"), [str(tmp_path / "kept.jsonl")]
    if objective == "mpo":
        found = read_pairs(file, SelectionRule(), 1, model, lambda text: None, Shard(), None)
    else:
        found = read_questions(file, model, Shard(), None)
    plan = plan_of(found, objective, tmp_path / "out")
    policy = load_policy(plan, torch.device("cpu"), bf16=False)
    made = {"mpo": mpo, "grpo": grpo}[objective].make_trainer(
        plan, policy, make_encoder(plan), trainer_arguments(plan, DistributedContext(), None)
    )
    (tmp_path / "image.png").unlink()
    with pytest.raises(SophiaError, match="^w11-.*but not when training was planned"):
        made.data_collator([made.train_dataset[0]])


def test_mpo_alone_holds_a_second_model(data: Path, tmp_path: Path) -> None:
    found = read_pairs(
        [str(data / "kept.jsonl")], SelectionRule(), 1, resolve_model("tiny-vlm"), lambda text: None, Shard(), None
    )
    plan = plan_of(found, "mpo", tmp_path / "out")
    held = [
        reference_count(replace(plan, config=replace(plan.config, **asked)))
        for asked in ({}, {"lora_rank": 4}, {"objective": "sophia"}, {"objective": "grpo"})
    ]
    assert held == [1, 0, 0, 0]


def test_the_seed_draws_the_wrong_ones(data: Path, tmp_path: Path) -> None:
    rows = records_of(data / "kept.jsonl")
    more = [{**row, "trajectory_id": f"{row['trajectory_id']}{n}"} for row in rows if row["reward"] == 0.0 for n in range(9)]
    write_lines(tmp_path / "many.jsonl", [*rows, *more])
    drawn = set()
    for seed in ("0", "1", "2"):
        done = sophia("train", "many.jsonl", *PAIRS, "--seed", seed, "--dry-run", cwd=tmp_path)
        drawn.add(done.stderr.decode().partition("rather than ")[2].split(",")[0])
        sophia("export", "many.jsonl", "--to", "trl-preference", "--seed", seed, "-o", f"{seed}.jsonl", cwd=tmp_path)
    assert len(drawn) > 1


@pytest.mark.slow
def test_mpo_takes_pairs_without_an_image(data: Path, tmp_path: Path) -> None:
    rows = records_of(data / "kept.jsonl")
    without = [{**row, "image": None} if row["id"] == rows[0]["id"] else row for row in rows]
    write_lines(tmp_path / "kept.jsonl", without)
    told = records_of(sophia("train", "kept.jsonl", *PAIRS, "--max-steps", "2", "-o", "out", cwd=tmp_path).stdout)
    assert told[-1]["rows"] == 3


@pytest.mark.slow
def test_mpo_makes_the_right_one_likelier_than_the_wrong_one(data: Path, tmp_path: Path) -> None:
    done = sophia("train", str(data / "kept.jsonl"), *PAIRS, "-o", "out", cwd=tmp_path)
    told = records_of(done.stdout)
    assert abs(told[0]["margin"]) < 1e-3 and told[-2]["margin"] > 0.1 and told[-2]["preferred"] == 1.0
    assert told[-1] == {"model": "out", "rows": 3, "steps": 5, "left_out": {}}
    assert "rather than ⟦<think>" in done.stderr.decode()
    before, after = load_file(BASE), load_file(tmp_path / "out/model.safetensors")
    assert {name: value.dtype for name, value in before.items()} == {name: value.dtype for name, value in after.items()}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any("vision_tower" in name or "projector" in name for name in moved)
    for file in BASE.parent.iterdir():
        if file.name not in ("model.safetensors", "README.md"):
            assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.long
def test_grpo_gets_better_at_its_questions_and_not_where_no_answer_is_right(lab: Path, tmp_path: Path) -> None:
    items = [{**row, "image": str(lab / row["image"])} for row in records_of(lab / "traj.jsonl")]
    write_lines(tmp_path / "items.jsonl", items)
    steps = ["--lr", "3e-4", "--max-steps", "10", "--batch-size", "8", "--rollouts", "8", "--micro-batch-size", "32"]
    done = sophia("train", "items.jsonl", "--objective", "grpo", *steps, "-o", "better", cwd=tmp_path)
    told = records_of(done.stdout)[:-1]
    assert sum(row["reward"] for row in told[-2:]) > sum(row["reward"] for row in told[:2]) + 0.3
    assert "its own answers, graded by" in done.stderr.decode()
    write_lines(tmp_path / "none.jsonl", [{**row, "answer": "no such answer"} for row in items])
    short = [
        *QUESTIONS,
        "--max-tokens",
        "8",
        "--max-steps",
        "1",
        "-o",
        "short",
    ]  # answers of eight tokens, the last their end
    assert records_of(sophia("train", "items.jsonl", *short, cwd=tmp_path).stdout)[0]["reward"] > 0
    still = [*QUESTIONS, "--max-steps", "1", "--weight-decay", "0", "-o", "still"]
    (told, *_) = records_of(sophia("train", "none.jsonl", *still, cwd=tmp_path).stdout)
    assert told["reward"] == 0.0 and told["groups_left_out"] == 1.0 and told["grad_norm"] == 0.0
    before, after = load_file(BASE), load_file(tmp_path / "still/model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.long
@pytest.mark.parametrize("options", [PAIRS, QUESTIONS], ids=["mpo", "grpo"])
def test_killed_they_go_on_to_the_very_model(options: list[str], data: Path, tmp_path: Path) -> None:
    shutil.copyfile(data / "kept.jsonl", tmp_path / "kept.jsonl")
    more = [*options, "--save-every", "1", "--lora-rank", "4", "--merge-lora"] if "mpo" in options else [*options]
    more += ["--save-every", "1"]
    killed(tmp_path, "out", more, after=3)
    again = sophia("train", "kept.jsonl", *more, "-o", "out", cwd=tmp_path).stdout
    whole = sophia("train", "kept.jsonl", *more, "-o", "whole", cwd=tmp_path).stdout
    assert records_of(again)[:-1] == records_of(whole)[:-1] and len(curve(again)) == 5
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert not (tmp_path / "out.tmp").exists()


@pytest.fixture(scope="module")
def uneven(lab: Path, data: Path) -> Path:
    """Pairs of six items of very different lengths, and `whole`, the model that one process trains with four in a pass."""
    found = {row["id"]: {**row, "image": str(lab / row["image"])} for row in records_of(lab / "traj.jsonl")}
    right = [{**row, "reward": 1.0} for row in list(found.values())[:6]]
    for number, row in enumerate(right):
        row["trajectory"] = WRONG.replace("9 shapes.", "9 shapes. " * (1 + number * number))
    wrong = [{**row, "trajectory": WRONG, "trajectory_id": f"{row['id']}/c0/t9", "reward": 0.0} for row in right]
    write_lines(data / "uneven.jsonl", [*right, *wrong])
    whole = sophia(
        "train", "uneven.jsonl", *PAIRS, *FOUR, "--max-grad-norm", "0.9", "--micro-batch-size", "4", "-o", "whole", cwd=data
    )
    (data / "whole.jsonl").write_bytes(whole.stdout)
    return data


@pytest.mark.slow
def test_mpo_does_not_lean_on_how_a_batch_is_cut(uneven: Path) -> None:
    """TRL's own mean by forward pass differs by a fifth."""
    cut = sophia(
        "train", "uneven.jsonl", *PAIRS, *FOUR, "--max-grad-norm", "0.9", "--micro-batch-size", "1", "-o", "cut", cwd=uneven
    )
    assert difference(uneven / "whole", uneven / "cut") < 0.01
    losses = [[told["loss"] for told in records_of(metrics)[:-1]] for metrics in (cut.stdout, uneven / "whole.jsonl")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.long
@pytest.mark.parametrize("stage", ["zero2", "zero3.json", "none"])
@pytest.mark.parametrize("options", [PAIRS, QUESTIONS], ids=["mpo", "grpo"])
def test_two_processes_train_as_one(options: list[str], stage: str, uneven: Path) -> None:
    """MPO gives the model of one process; GRPO, whose processes sample their own answers, runs to the end."""
    out = f"{options[1]}-{Path(stage).stem}"
    two = ["--cpu-ranks", "2", "--deepspeed", stage, "--micro-batch-size", "1", "--max-grad-norm", "0.9"]
    rows = ["uneven.jsonl", *PAIRS, *FOUR] if options is PAIRS else ["kept.jsonl", *QUESTIONS]
    done = sophia("train", *rows, *two, "-o", out, cwd=uneven)
    assert len(curve(done.stdout)) == 5
    if options is PAIRS:
        assert difference(uneven / "whole", uneven / out) < 0.01
    assert set(load_file(BASE)) == set(load_file(uneven / out / "model.safetensors"))


@pytest.mark.slow
def test_a_full_disk_is_one_line(data: Path, tmp_path: Path) -> None:
    command = " ".join([*SOPHIA, "train", str(data / "kept.jsonl"), *PAIRS, "--save-every", "2", "-o", "out"])
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 1000; exec {command}"], cwd=tmp_path, capture_output=True, env=ENVIRONMENT, timeout=600
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr.decode()
    assert "cannot be written" in done.stderr.decode().splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--objective", "mpo", "--mix", "kept.jsonl"], "learns from pairs only"),
        (["--objective", "grpo", "--mix", "kept.jsonl"], "learns from questions only"),
        (["--objective", "mpo", "--batch-size", "3", "--micro-batch-size", "2"], "--batch-size 3"),
        (["--objective", "ppo"], "grpo, mpo"),
        (["--objective", "grpo", "--keep", "2"], "--keep"),
        (["--objective", "mpo", "--normalize-by", "trajectories"], "--normalize-by"),
        (["--objective", "grpo", "--batch-size", "4", "--micro-batch-size", "1"], "there are only 3 questions"),
        (["--objective", "grpo", "--batch-size", "2", "--max-tokens", "9999"], "give at most 9"),
    ],
)
def test_what_does_not_go_together_is_refused(options: list[str], said: str, data: Path) -> None:
    assert said in sophia("train", "kept.jsonl", *options, "-o", "refused", cwd=data, code=2).stderr.decode()


def test_nothing_to_learn_from_is_reported(data: Path, tmp_path: Path) -> None:
    rows = records_of(data / "kept.jsonl")
    write_lines(tmp_path / "right.jsonl", [row for row in rows if row["reward"] == 1.0])
    done = sophia("train", "right.jsonl", "--objective", "mpo", "-o", "out", cwd=tmp_path, code=2)
    assert "right and wrong" in done.stderr.decode()
    write_lines(tmp_path / "blank.jsonl", [{"id": "a", "question": "1 + 1?"}])
    done = sophia("train", "blank.jsonl", "--objective", "grpo", "-o", "out", cwd=tmp_path, code=2)
    write_lines(tmp_path / "odd.jsonl", [{"id": "a", "question": "1?", "choices": ["1", "2"], "answer": []}])
    odd = sophia("train", "odd.jsonl", "--objective", "grpo", "-o", "out", cwd=tmp_path, code=2)
    assert "odd.jsonl:1: field `answer` cannot be graded" in odd.stderr.decode()
    write_lines(tmp_path / "two.jsonl", [{"id": "a", "question": "1 + 1?", "answer": answer} for answer in ("2", "3")])
    two = sophia("train", "two.jsonl", "--objective", "grpo", "-o", "out", cwd=tmp_path, code=2)
    assert "two.jsonl:2: field `id` 'a' is used for another question" in two.stderr.decode()
    assert "blank.jsonl:1: field `answer`" in done.stderr.decode() and not (tmp_path / "out").exists()
