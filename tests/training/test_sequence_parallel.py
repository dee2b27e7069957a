"""Tests of sequence parallelism: a row's tokens are split over processes, and the model equals that of one process."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.commands import ENVIRONMENT, records_of, sophia, write_lines
from helpers.records import kept_records
from helpers.small_models import FAMILIES, make_model, write_zero3
from helpers.trained_models import curve, difference
from hypothesis import given
from hypothesis import strategies as st

from sophia_cli.errors import UsageError
from sophia_cli.training.collator import IGNORE_INDEX
from sophia_cli.training.sequence_parallel import SequenceParallel, check_heads

STEPS = ["--batch-size", "5", "--micro-batch-size", "2", "--lr", "1e-3", "--max-steps", "5"]
LATER = pytest.mark.long


@pytest.fixture(scope="module")
def data(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with and without images, of odd lengths; `alone` is the model that one process trains on them."""
    folder = tmp_path_factory.mktemp("ulysses")
    kept = [{**row, "trajectory_logprob": -9.0 - number} for number, row in enumerate(kept_records(lab, 8))]
    write_lines(folder / "kept.jsonl", kept)
    write_lines(folder / "text.jsonl", [{"id": f"t{n}", "question": f"{n} + 1?", "answer": str(n + 1)} for n in range(4)])
    write_zero3(folder)
    train(folder, "alone")
    return folder


def train(folder: Path, out: str, *options: str) -> Path:
    """Returns the folder of a model, with its metrics in it."""
    sophia("train", "kept.jsonl", "--mix", "text.jsonl", *STEPS, "-o", out, *options, cwd=folder)
    return folder / out


def same_curves(one: Path, other: Path) -> None:
    for ours, theirs in zip(curve(one / "metrics.jsonl"), curve(other / "metrics.jsonl"), strict=True):
        assert ours == (theirs[0], pytest.approx(theirs[1], rel=1e-3), pytest.approx(theirs[2], rel=1e-3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "ways", "stage", "more"),
    [
        ("2", "2", "zero3.json", []),
        pytest.param("2", "2", "zero2", ["--micro-batch-size", "1"], marks=LATER),
        pytest.param("2", "2", "none", ["--micro-batch-size", "5"], marks=LATER),
        pytest.param("4", "2", "zero3.json", [], marks=LATER),  # two groups; and four processes over two shared heads
        pytest.param("4", "4", "none", [], marks=LATER),
    ],
)
def test_processes_that_share_rows_train_the_model_that_one_does(
    ranks: str, ways: str, stage: str, more: list[str], data: Path
) -> None:
    options = ["--cpu-ranks", ranks, "--sequence-parallel", ways, "--deepspeed", stage, *more]
    out = train(data, f"{ranks}-{ways}-{Path(stage).stem}", *options)
    assert difference(data / "alone", out) < 0.01
    same_curves(out, data / "alone")
    for ours, theirs in zip(records_of(out / "metrics.jsonl"), records_of(data / "alone/metrics.jsonl"), strict=True):
        assert ours["log_ratio"] == pytest.approx(theirs["log_ratio"], rel=1e-3)  # each trajectory once


def place(number: int, ways: int) -> SequenceParallel:
    """Returns the context of one of several processes, without the others."""
    made = SequenceParallel.__new__(SequenceParallel)
    made.sp_rank, made.sp_size = number, ways
    return made


@given(length=st.integers(1, 40), ways=st.integers(2, 8), rows=st.integers(1, 3))
def test_stretches_are_the_row_and_each_token_predicts_the_one_behind_it(length: int, ways: int, rows: int) -> None:
    labels = torch.arange(rows * length).view(rows, length) + 1
    places = [place(number, ways) for number in range(ways)]
    joined = torch.cat([each.slice_tokens(labels, fill=-5) for each in places], 1)
    assert torch.equal(joined[:, :length], labels) and (joined[:, length:] == -5).all()
    assert joined.shape[1] % ways == 0 and joined.shape[1] < length + ways
    behind = torch.cat([each.slice_labels(labels)[:, 1:] for each in places], 1)
    assert torch.equal(behind[:, : length - 1], labels[:, 1:]) and (behind[:, length - 1 :] == IGNORE_INDEX).all()


@given(length=st.integers(2, 40), ways=st.integers(2, 4), seed=st.integers(0, 99))
def test_what_qwen3_adds_to_image_tokens_stays_with_them(length: int, ways: int, seed: int) -> None:
    torch.manual_seed(seed)
    visual = torch.rand(2, length) < 0.5
    values = torch.arange(int(visual.sum()))
    inputs = {"inputs_embeds": torch.zeros(2, length, 1), "visual_pos_masks": visual, "deepstack_visual_embeds": [values]}
    found = torch.full((2, length + ways), -1)
    for each in (place(number, ways) for number in range(ways)):
        _, cut = each._slice_inputs(None, (), dict(inputs))
        mask, first = cut["visual_pos_masks"], each.sp_rank * cut["visual_pos_masks"].shape[1]
        found[:, first : first + mask.shape[1]][mask] = cut["deepstack_visual_embeds"][0]
        assert cut["attention_mask"] is None and cut["position_ids"][0, 0] == first
    assert torch.equal(found[:, :length][visual], values) and (found[:, :length][~visual] == -1).all()


@pytest.mark.slow
def test_gradients_of_shared_rows_are_those_of_whole_logits(data: Path) -> None:
    """Of every parameter, vision tower included, with recomputed layers, images at the cut, an unsupervised part, and no
    image.
    """
    for family in FAMILIES:
        if not (data / family).exists():
            make_model(family, data / family)
    images = ",".join(str(row["image"]) for row in records_of(data / "kept.jsonl")[:2])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [
        str(Path(__file__).parent.parent / "helpers" / "sequence_parallel_gradients.py"),
        images,
        *(str(data / family) for family in FAMILIES),
    ]
    done = subprocess.run(
        command, capture_output=True, env={**ENVIRONMENT, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}, timeout=600
    )
    assert done.returncode == 0, done.stderr.decode()
    told = records_of(done.stdout)
    assert len(told) == len(FAMILIES) and all(each["worst"] < 1e-3 for each in told), told
    assert all(each["gathered"] and not each["views"] and each["in_order"] for each in told), told


@LATER
@pytest.mark.parametrize(
    ("family", "options"),
    [*zip(FAMILIES, ([], ["--lora-rank", "4", "--merge-lora"], ["--train-vision", "--train-projector"]), strict=True)],
)
def test_every_family_takes_stretches_with_images_in_them(family: str, options: list[str], data: Path) -> None:
    if not (data / family).exists():
        make_model(family, data / family)
    asked = ["--model", family, "--max-steps", "2", "--force", *options]
    one = train(data, "one", *asked)
    two = train(data, "two", *asked, "--cpu-ranks", "2", "--sequence-parallel", "2", "--deepspeed", "zero3.json")
    same_curves(two, one)


@LATER
def test_objectives_of_whole_trajectories_see_them_whole(data: Path) -> None:
    """Truncated ratios cover all tokens of a trajectory, on whichever process they are."""
    asked = ["--objective", "truncated", "--force", "--max-steps", "2"]
    one = train(data, "one", *asked)
    two = train(data, "two", *asked, "--cpu-ranks", "2", "--sequence-parallel", "2")
    same_curves(two, one)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sequence-parallel", "2"], "1 process cannot form groups of 2"),
        (["--sequence-parallel", "2", "--cpu-ranks", "3"], "3 processes cannot form groups of 2"),
        (["--sequence-parallel", "3", "--cpu-ranks", "3"], "4 attention heads over 2; choose from 2, 4"),
        (["--sequence-parallel", "2", "--cpu-ranks", "2", "--objective", "mpo"], "does not support it"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(options: list[str], said: str, data: Path) -> None:
    assert said in sophia("train", "kept.jsonl", *options, "-o", "refused", cwd=data, code=2).stderr.decode()


def test_attention_that_looks_back_a_part_is_refused() -> None:
    config = SimpleNamespace(num_attention_heads=4, num_key_value_heads=4, layer_types=["sliding_attention"])
    with pytest.raises(UsageError, match="sliding-window"):
        check_heads(config, 2)
