"""Tests of every family with a tiny random model of its real class: training, saving, loading, adapters, frozen parts."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.commands import records_of, sophia, write_lines
from helpers.records import kept_records
from helpers.small_models import FAMILIES, make_model, write_zero3
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from sophia_cli import registry
from sophia_cli.models.families import model_part
from sophia_cli.training.collator import Collator
from sophia_cli.training.examples import TrainExample, prompt_messages
from sophia_cli.training.logprobs import LogprobHead
from sophia_cli.training.packing import can_pack

MOST_LATER = [FAMILIES[0], *(pytest.param(family, marks=pytest.mark.long) for family in FAMILIES[1:])]
STEPS = ["--batch-size", "5", "--micro-batch-size", "2", "--lr", "1e-3", "--max-steps", "2"]


@pytest.fixture(scope="module")
def data(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    write_lines(folder / "kept.jsonl", kept_records(lab, 6))
    write_lines(folder / "text.jsonl", [{"id": f"t{n}", "question": f"{n} + 1?", "answer": str(n + 1)} for n in range(4)])
    write_zero3(folder)
    for family in FAMILIES:
        make_model(family, folder / family)
    return folder


def train(data: Path, family: str, out: Path, *options: str) -> list[dict[str, Any]]:
    mixed = ["kept.jsonl", "--mix", "text.jsonl", "--model", family, "-o", str(out), *STEPS]
    return records_of(sophia("train", *mixed, *options, cwd=data).stdout)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("model*.safetensors") for name, value in load_file(file).items()}


def moved(before: Path, after: Path, family: str) -> set[str]:
    """Returns the parts whose weights have changed; asserts that names, shapes and types have not."""
    from transformers import AutoModelForImageTextToText

    first, second = tensors(before), tensors(after)
    assert {name: (v.shape, v.dtype) for name, v in first.items()} == {n: (v.shape, v.dtype) for n, v in second.items()}
    models = [AutoModelForImageTextToText.from_pretrained(folder) for folder in (before, after)]
    weights = [dict(model.named_parameters()) for model in models]
    kind = registry.find("families", family.replace("_", "-"))
    return {model_part(name, kind) for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])}


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_encoded_together_as_alone(family: str, data: Path) -> None:
    """Rows with no, one and two images, of different lengths."""
    images = [str(row["image"]) for row in records_of(data / "kept.jsonl")]
    rows = [
        TrainExample(
            f"r{count}", prompt_messages("How many shapes? " * (count + 1), images[:count], answer, "short"), answer, 1.0
        )
        for count, answer in ((1, "<think>\n2 and 3\n</think>\n5"), (0, "no image"), (2, "two images"), (1, "x"))
    ]
    encoder = Collator(registry.find("families", family.replace("_", "-")).load_processor(str(data / family)), 2048)
    together, joined = encoder.encode_rows(rows)
    alone = [encoder.encode_rows([row]) for row in rows]
    for ours, ((theirs,), _) in zip(together, alone, strict=True):
        assert torch.equal(ours.input_ids, theirs.input_ids) and torch.equal(ours.labels, theirs.labels)
        assert all(torch.equal(value, theirs.by_token[name]) for name, value in ours.by_token.items())
    assert joined
    for name, value in joined.items():
        assert torch.equal(value, torch.cat([found[name] for _, found in alone if name in found]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("images", "sees"), [((1, 0, 2, 1), False), ((0, 0, 0), False), ((0, 0, 0), True)])
def test_packed_rows_are_scored_as_padded_ones(family: str, images: tuple[int, ...], sees: bool, data: Path) -> None:
    """Packed rows do not see each other: the same log-probabilities and the same gradient."""
    from transformers import AutoModelForImageTextToText

    files = [str(row["image"]) for row in records_of(data / "kept.jsonl")]
    rows = [
        TrainExample(
            f"r{place}",
            prompt_messages("How many shapes? " * (1 + place), files[:count], "", "short"),
            "7 " * (9 - place),
            1.0,
        )
        for place, count in enumerate(images)
    ]
    policy = AutoModelForImageTextToText.from_pretrained(data / family, dtype=torch.float32)
    kind = registry.find("families", family.replace("_", "-"))
    batch = Collator(kind.load_processor(str(data / family)), 2048).collate(rows, sees)
    labels = [batch.pop(name) for name in ("labels", "weights", "behavior_logp")][0]
    lengths, hook = [], policy.get_input_embeddings().register_forward_hook(lambda *given: lengths.append(given[2].shape))
    found = []
    for one_behind_the_other in (False, True):
        policy.zero_grad()
        logps = LogprobHead(policy, one_behind_the_other).score_batch(policy, batch, labels)
        (logps * torch.arange(1.0, 1 + logps.numel()).view_as(logps)).sum().backward()
        found.append((logps.detach(), torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])))
    hook.remove()
    assert lengths[0][0] == len(rows) and lengths[1][0] == 1 and lengths[1][1] < lengths[0].numel() // lengths[0][-1]
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-5, rtol=1e-5)
    assert (found[1][1] - found[0][1]).norm() < 1e-5 * found[0][1].norm()


def test_rows_are_packed_where_the_kernel_takes_them(data: Path) -> None:
    config = AutoConfig.from_pretrained(data / "qwen3_vl")
    for kernel, takes in (("sdpa", False), ("flash_attention_2", True), ("eager", False)):
        config.get_text_config()._attn_implementation = kernel
        assert can_pack(SimpleNamespace(config=config)) is takes


def test_a_tokenizer_without_padding_is_given_some(data: Path) -> None:
    processor = registry.find("families", "internvl").load_processor(str(data / "internvl"))
    rows = [TrainExample(str(count), prompt_messages("How many? " * count, [], "1", "short"), "1", 1.0) for count in (1, 9)]
    wanted = Collator(processor, 2048).collate(rows)
    processor.tokenizer.pad_token = None
    found = Collator(processor, 2048).collate(rows)
    assert torch.equal(found["labels"], wanted["labels"])
    assert torch.equal(found["attention_mask"], wanted["attention_mask"])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_one_family_trains_and_its_folder_is_the_models_own(family: str, data: Path, tmp_path: Path) -> None:
    """Names, shapes and types of tensors stay; other files are equal byte by byte; only the language model has moved."""
    told = train(data, family, tmp_path / "out")
    assert told[1]["loss"] < told[0]["loss"]
    assert moved(data / family, tmp_path / "out", family) == {"language"}
    for file in (data / family).iterdir():
        if file.suffix != ".safetensors":
            assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.slow
def test_tensors_keep_their_own_types_and_other_chat_templates_go_along(data: Path, tmp_path: Path) -> None:
    """Some checkpoints have fp32 norms beside bf16 weights, and a config that does not mention it."""
    model = tmp_path / "mixed"
    shutil.copytree(data / "internvl", model)
    types = {name: torch.float32 if "norm" in name else torch.bfloat16 for name in tensors(model)}
    save_file({name: value.to(types[name]) for name, value in tensors(model).items()}, model / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({name: value for name, value in config.items() if name != "dtype"}))
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates/rag.jinja").write_text("{{ messages }}")
    train(data, str(model), tmp_path / "out")
    assert {name: value.dtype for name, value in tensors(tmp_path / "out").items()} == types
    assert len(set(types.values())) == 2
    assert (tmp_path / "out/additional_chat_templates/rag.jinja").read_text() == "{{ messages }}"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_answers_like_what_was_trained(
    family: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sophia_cli.models.aliases import resolve_model
    from sophia_cli.training import trainer
    from sophia_cli.training.config import TrainConfig
    from sophia_cli.training.dataset import read_trajectories
    from sophia_cli.training.distributed import DistributedContext
    from sophia_cli.training.preflight import size_rows
    from sophia_cli.training.run_state import TrainPlan

    kept: list[Any] = []
    save = trainer.save_model

    def catch(plan: TrainPlan, world: DistributedContext, engine: Any, policy: Any, steps: int) -> None:
        kept.append(policy)
        save(plan, world, engine, policy, steps)

    monkeypatch.setattr(trainer, "save_model", catch)
    model = resolve_model(str(data / family))
    rows = read_trajectories([str(data / "kept.jsonl")], [], None, model, 0, lambda text: None)
    settings = TrainConfig("sophia", 6, 2, 1e-3, 0.05, 0.25, "tokens", 1.0, 1, 1024, 0)
    plan = size_rows(TrainPlan([], rows.left, model, settings, tmp_path / "out"), rows.rows, lambda text: None)
    plan.open_work_dir(force=False)
    trainer.train_with_loss(plan, DistributedContext(), lambda told: None)
    assert answers(kept[0], data / family, plan.rows[0].row, trained=True) == answers(
        None, tmp_path / "out", plan.rows[0].row
    )


def answers(policy: Any, folder: Path, row: Any, trained: bool = False) -> list[int]:
    """Returns a greedy answer in bf16, with the image; `trained` uses the policy as training leaves it in memory."""
    from transformers import AutoModelForImageTextToText

    from sophia_cli.training.collator import IGNORE_INDEX

    kind = registry.find("families", str(folder.name if trained else _family(folder)).replace("_", "-"))
    example = Collator(kind.load_processor(str(folder)), 1024)
    batch = example.collate([row])
    prompt = int((batch["labels"] == IGNORE_INDEX).sum())
    inputs = {name: v for name, v in batch.items() if name not in ("labels", "weights", "behavior_logp")}
    inputs = {
        name: v[:, :prompt] if name in ("input_ids", "attention_mask", "mm_token_type_ids") else v
        for name, v in inputs.items()
    }
    if policy is None:
        policy = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
    else:
        vars(policy.get_output_embeddings()).pop("forward")
        policy = policy.to(torch.bfloat16)
    inputs = {name: v.to(torch.bfloat16) if v.is_floating_point() else v for name, v in inputs.items()}
    out = policy.eval().generate(**inputs, max_new_tokens=12, do_sample=False)
    return list(out[0, prompt:].tolist())


def _family(folder: Path) -> str:
    from transformers import AutoConfig

    return str(AutoConfig.from_pretrained(folder).model_type)


@pytest.mark.slow
@pytest.mark.parametrize("family", MOST_LATER)
def test_vision_and_projector_train_where_asked(family: str, data: Path, tmp_path: Path) -> None:
    train(data, family, tmp_path / "projector", "--train-projector")
    assert moved(data / family, tmp_path / "projector", family) == {"language", "projector"}
    train(data, family, tmp_path / "all", "--train-projector", "--train-vision")
    assert moved(data / family, tmp_path / "all", family) == {"language", "projector", "vision"}


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_zero3_of_rows_with_and_without_images(family: str, data: Path, tmp_path: Path) -> None:
    one = train(data, family, tmp_path / "one", "--micro-batch-size", "1")
    two = train(data, family, tmp_path / "two", "--micro-batch-size", "1", "--cpu-ranks", "2", "--deepspeed", "zero3.json")
    assert [row["loss"] for row in two[:-1]] == [pytest.approx(row["loss"], rel=1e-3) for row in one[:-1]]
    assert moved(data / family, tmp_path / "two", family) == {"language"}


@pytest.mark.slow
@pytest.mark.parametrize("family", MOST_LATER)
def test_adapters_alone_or_merged(family: str, data: Path, tmp_path: Path) -> None:
    """peft loads the adapters onto the base; merged adapters give a model with the base's tensor names."""
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    train(data, family, tmp_path / "lora", "--lora-rank", "4")
    train(data, family, tmp_path / "merged", "--lora-rank", "4", "--merge-lora")
    assert moved(data / family, tmp_path / "merged", family) == {"language"}
    base = AutoModelForImageTextToText.from_pretrained(data / family, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, tmp_path / "lora").merge_and_unload()
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    theirs = dict(adapted.named_parameters())
    for name, weight in merged.named_parameters():
        assert torch.allclose(weight, theirs[name], atol=1e-2), name
    done = sophia("caption", "kept.jsonl", "--model", str(tmp_path / "lora"), cwd=data, code=2)
    assert "--merge-lora" in done.stderr.decode()


@pytest.mark.long
def test_adapters_are_merged_from_weights_that_are_spread(data: Path, tmp_path: Path) -> None:
    """With ZeRO-3, which holds no whole weights, the saved model equals that of one process."""
    stage = {"stage": 3, "stage3_param_persistence_threshold": 0}
    (tmp_path / "spread.json").write_text(json.dumps({"zero_optimization": stage}))
    options = ["--lora-rank", "4", "--merge-lora"]
    train(data, "qwen3_vl", tmp_path / "one", *options)
    train(data, "qwen3_vl", tmp_path / "two", *options, "--cpu-ranks", "2", "--deepspeed", str(tmp_path / "spread.json"))
    assert moved(data / "qwen3_vl", tmp_path / "two", "qwen3_vl") == {"language"}
    one, two = tensors(tmp_path / "one"), tensors(tmp_path / "two")
    assert all(torch.allclose(one[name].float(), two[name].float(), atol=1e-2) for name in one)
