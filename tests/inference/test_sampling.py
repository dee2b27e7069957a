"""Tests of `caption`, `reason` and the hf backend on the embedded models: seeds, batches, failures, streams."""

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import ENVIRONMENT, SOPHIA, records_of, sophia, write_lines

from sophia_cli.backends._hf.gumbel_sampling import GumbelNoise
from sophia_cli.records import STEP_FIELDS


def lines(data: bytes) -> list[bytes]:
    return sorted(data.splitlines())


def test_caption_writes_k_records_an_image_with_the_fields_of_the_contract(lab: Path) -> None:
    rows = records_of(lab / "caps.jsonl")
    assert len(rows) == 8 * 2
    assert {row["caption_id"] for row in rows} == {f"{row['id']}/c{k}" for row in rows for k in range(2)}
    for row in rows:
        assert list(row)[-6:] == list(STEP_FIELDS["caption"])
        assert row["image"].startswith("imgs/") and (lab / row["image"]).exists()
        assert row["caption_count"] == 2 and row["caption_model"] == "tiny-vlm" and row["caption_finish"] == "stop"


def test_reason_writes_n_records_a_caption_with_the_fields_of_the_contract(lab: Path) -> None:
    rows = records_of(lab / "raw.jsonl")
    assert len(rows) == 8 * 2 * 2
    assert {row["trajectory_id"] for row in rows} == {f"{row['caption_id']}/t{n}" for row in rows for n in range(2)}
    for row in rows:
        assert list(row)[-6:] == list(STEP_FIELDS["reason"])
        assert row["trajectory"].startswith("<think>\n") and "</think>" in row["trajectory"]


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", ["1", "5", "100"])
def test_records_do_not_depend_on_the_batch_that_a_sample_falls_in(concurrency: str, lab: Path) -> None:
    captions = sophia("caption", "imgs", "-k", "2", "--concurrency", concurrency, cwd=lab).stdout
    assert lines(captions) == lines((lab / "caps.jsonl").read_bytes())
    if concurrency != "1":
        raw = sophia("reason", "caps.jsonl", "-n", "2", "--concurrency", concurrency, cwd=lab).stdout
        assert lines(raw) == lines((lab / "raw.jsonl").read_bytes())


def test_the_union_of_shards_is_the_whole(lab: Path) -> None:
    parts = [sophia("caption", "imgs", "-k", "2", "--shard", f"{index}/3", cwd=lab).stdout for index in range(3)]
    assert lines(b"".join(parts)) == lines((lab / "caps.jsonl").read_bytes())


def test_samples_differ_and_another_seed_gives_others(lab: Path) -> None:
    many = records_of(sophia("caption", "imgs", "-k", "6", "--limit", "4", "--temperature", "1.5", cwd=lab).stdout)
    assert len({row["caption"] for row in many}) > 4
    other = records_of(
        sophia("caption", "imgs", "-k", "6", "--limit", "4", "--temperature", "1.5", "--seed", "1", cwd=lab).stdout
    )
    assert [row["caption"] for row in other] != [row["caption"] for row in many]


def test_temperature_0_is_greedy(lab: Path) -> None:
    rows = records_of(sophia("caption", "imgs", "-k", "3", "--limit", "2", "--temperature", "0", cwd=lab).stdout)
    assert len({row["caption"] for row in rows}) == len({row["id"] for row in rows}) == 2


def test_a_description_cut_off_by_the_limit_says_so_and_its_length_is_exact(lab: Path) -> None:
    rows = records_of(sophia("caption", "imgs", "-k", "1", "--max-tokens", "5", cwd=lab).stdout)
    assert all(row["caption_finish"] == "length" and row["caption_tokens"] == 5 for row in rows)
    from transformers import AutoTokenizer

    from sophia_cli.models.aliases import resolve_model

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("tiny-reasoner").path)
    for row in records_of(lab / "raw.jsonl"):
        tokens = tokenizer(row["trajectory"], add_special_tokens=False)["input_ids"]
        assert row["trajectory_tokens"] == len(tokens) + (row["finish_reason"] == "stop")


def test_a_tag_goes_into_the_ids_and_changes_the_draw(lab: Path) -> None:
    rows = records_of(sophia("reason", "caps.jsonl", "-n", "2", "--tag", "r1", "--limit", "2", cwd=lab).stdout)
    assert {row["trajectory_id"] for row in rows} == {f"{row['caption_id']}/r1.t{n}" for row in rows for n in range(2)}


def test_the_question_is_never_shown_to_the_captioner_and_always_to_the_reasoner(lab: Path) -> None:
    question = records_of(lab / "caps.jsonl")[0]["question"]
    assert question not in sophia("caption", "imgs", "--dry-run", cwd=lab).stderr.decode()
    shown = sophia("reason", "caps.jsonl", "--dry-run", cwd=lab)
    assert question in shown.stderr.decode() and shown.stdout == b""
    assert "example" in shown.stderr.decode()


def test_a_broken_or_missing_image_fails_alone(tmp_path: Path) -> None:
    sophia("world", "imgs", "-n", "4", "--seed", "1", cwd=tmp_path)
    (tmp_path / "imgs/000001.png").write_bytes(b"no image")
    (tmp_path / "imgs/000002.png").unlink()
    done = sophia("caption", "imgs", "-k", "2", "-o", "caps.jsonl", cwd=tmp_path, code=3)
    rows = records_of(tmp_path / "caps.jsonl")
    assert len(rows) == 8
    bad = [row for row in rows if "error" in row]
    assert {row["id"] for row in bad} == {"w1-000001", "w1-000002"} and len(bad) == 4
    assert all("caption" not in row and row["caption_id"] and row["caption_count"] == 2 for row in bad)
    for row in bad:
        assert row["caption_id"] in done.stderr.decode() and row["image"] in row["error"]
    passed = records_of(sophia("reason", "caps.jsonl", "-n", "1", cwd=tmp_path, code=3).stdout)
    assert [row for row in passed if "error" in row] == bad
    sophia("world", "again", "-n", "4", "--seed", "1", cwd=tmp_path)
    for number in (1, 2):
        (tmp_path / f"imgs/00000{number}.png").write_bytes((tmp_path / f"again/00000{number}.png").read_bytes())
    sophia("caption", "imgs", "-k", "2", "-o", "caps.jsonl", cwd=tmp_path)
    assert not any("error" in row for row in records_of(tmp_path / "caps.jsonl"))
    assert len(records_of(tmp_path / "caps.jsonl")) == 8


@pytest.mark.parametrize(("field", "value"), [("caption_id", None), ("caption", 5), ("question", None)])
def test_a_caption_that_cannot_be_reasoned_over_goes_out_with_an_error(
    field: str, value: Any, lab: Path, tmp_path: Path
) -> None:
    rows = records_of(lab / "caps.jsonl")[:3]
    write_lines(tmp_path / "caps.jsonl", [rows[0], {**rows[1], field: value}, rows[2]])
    done = sophia("reason", "caps.jsonl", "-n", "1", cwd=tmp_path, code=3)
    out = records_of(done.stdout)
    assert len(out) == 3
    assert [f"`{field}`" in row["error"] and "caps.jsonl:2" in row["error"] for row in out if "error" in row] == [True]


def test_an_item_without_an_id_gets_one_from_its_image_and_question(lab: Path, tmp_path: Path) -> None:
    items = [
        {k: v for k, v in row.items() if k in ("image", "question", "answer")} for row in records_of(lab / "caps.jsonl")[::2]
    ]
    items = [{**item, "image": str(lab / item["image"])} for item in items]
    ids = []
    for order in (items, items[::-1]):
        write_lines(tmp_path / "items.jsonl", order)
        rows = records_of(sophia("caption", "items.jsonl", "-k", "1", "--max-tokens", "1", cwd=tmp_path).stdout)
        ids.append({row["image"]: row["id"] for row in rows})
    assert ids[0] == ids[1] and len(set(ids[0].values())) == 8


def test_two_items_of_one_id_are_refused_by_line(lab: Path, tmp_path: Path) -> None:
    row = records_of(lab / "caps.jsonl")[0]
    item = {"id": "a", "image": str(lab / row["image"]), "question": "?", "answer": "1"}
    write_lines(tmp_path / "items.jsonl", [item] * 2)
    done = sophia("caption", "items.jsonl", "-k", "1", cwd=tmp_path, code=2)
    assert "items.jsonl:2" in done.stderr.decode() and "items.jsonl:1" in done.stderr.decode()


def test_sources_of_every_kind_give_the_same_records(lab: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    data = load_dataset("imagefolder", data_dir=str(lab / "imgs"), split="train", cache_dir=str(tmp_path / "cache"))
    data.save_to_disk(str(tmp_path / "saved"))
    data.to_parquet(str(tmp_path / "data.parquet"))
    wanted = {row["caption_id"]: row["caption"] for row in records_of(lab / "caps.jsonl")}
    for source in ("saved", "data.parquet"):
        rows = records_of(sophia("caption", source, "-k", "2", cwd=tmp_path).stdout)
        assert {row["caption_id"]: row["caption"] for row in rows} == wanted
        assert all(row["image"].startswith("data:image/png;base64,") or Path(row["image"]).exists() for row in rows)


def test_a_trajectory_leaves_before_the_next_caption_comes(lab: Path) -> None:
    step = subprocess.Popen(
        [*SOPHIA, "reason", "-n", "1", "--max-tokens", "3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    assert step.stdin and step.stdout
    for line in (lab / "caps.jsonl").read_bytes().splitlines(keepends=True)[:3]:
        step.stdin.write(line)
        step.stdin.flush()
        assert json.loads(step.stdout.readline())["caption_id"] == json.loads(line)["caption_id"]
    step.stdin.close()
    assert step.wait() == 0


def test_no_work_loads_no_model(tmp_path: Path) -> None:
    done = sophia("reason", "--llm", "org/never-there", cwd=tmp_path, stdin=b"")
    assert done.stdout == b""


@pytest.mark.slow
def test_a_model_that_is_not_there_is_one_line(lab: Path) -> None:
    done = sophia("reason", "caps.jsonl", "--llm", "org/never-there", cwd=lab, code=1)
    assert "org/never-there" in done.stderr.decode().splitlines()[-1]


def test_gumbel_noise_is_a_function_of_seed_position_and_token_alone() -> None:
    scores = torch.zeros(3, 1000)
    ids = torch.zeros(3, 7, dtype=torch.long)
    noisy = GumbelNoise([5, 6, 5], starts=[4, 4, 4])(ids, scores)
    assert torch.equal(noisy[0], noisy[2]) and not torch.equal(noisy[0], noisy[1])
    assert torch.equal(GumbelNoise([6], starts=[9])(torch.zeros(1, 12, dtype=torch.long), scores[:1])[0], noisy[1])
    assert not torch.equal(GumbelNoise([6], starts=[4])(torch.zeros(1, 8, dtype=torch.long), scores[:1])[0], noisy[1])


def test_the_gumbel_max_trick_samples_from_the_softmax() -> None:
    wanted = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    scores = wanted.log().repeat(40_000, 1)
    drawn = GumbelNoise(list(range(40_000)), [0] * 40_000)(torch.zeros(40_000, 1, dtype=torch.long), scores).argmax(dim=1)
    shares = torch.bincount(drawn, minlength=4).double() / 40_000
    assert (shares - wanted).abs().max() < 0.012  # about five standard errors


@pytest.mark.parametrize("name", ["tiny-vlm", "tiny-reasoner"])
def test_greedy_answers_are_transformers_own(name: str, lab: Path) -> None:
    from sophia_cli.backends.hf import Backend
    from sophia_cli.inference.backend_options import BackendOptions
    from sophia_cli.inference.types import Completion, Request, SamplingParams
    from sophia_cli.io.images import open_image
    from sophia_cli.models.aliases import resolve_model

    backend = Backend(resolve_model(name), BackendOptions())
    image = {"type": "image", "image": str(lab / "imgs/000000.png")}
    asked = "Describe the image." if name == "tiny-vlm" else "Visual information: There are 2 shapes."
    contents: list[Any] = [[image, {"type": "text", "text": asked}]] if name == "tiny-vlm" else [asked]
    contents += ["How many shapes are there?"] * 3
    requests = [Request([{"role": "user", "content": content}], SamplingParams(0.0, 1.0, 30), 0) for content in contents]
    found = answers(backend, requests)
    assert (engine := backend.engine)
    engine.lm.set_attn_implementation("eager")
    for request, completion in zip(requests, found, strict=True):
        text = engine.tokenizer.apply_chat_template(request.messages, add_generation_prompt=True, tokenize=False)
        images = [open_image(image["image"])] if request is requests[0] and name == "tiny-vlm" else []
        inputs = (
            engine.processor(images=images or None, text=[text], return_tensors="pt")
            if engine.processor
            else (engine.tokenizer([text], add_special_tokens=False, return_tensors="pt"))
        )
        inputs = {
            key: value.double() if value.is_floating_point() else value
            for key, value in inputs.items()
            if key != "token_type_ids"
        }
        ids = engine.lm.generate(**inputs, max_new_tokens=30, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert isinstance(completion, Completion)
        assert completion.text == engine.tokenizer.decode(ids, skip_special_tokens=True)
        assert completion.tokens == len(ids)


def test_the_backend_of_the_docs_is_one_file(lab: Path, tmp_path: Path) -> None:
    root = Path(__file__).parent.parent.parent
    page = (root / "docs" / "adding-a-backend.md").read_text()
    shutil.copytree(root / "sophia_cli", tmp_path / "sophia_cli")
    (tmp_path / "sophia_cli" / "backends" / "parrot.py").write_text(page.split("```python\n")[1].split("```")[0])
    command = [*SOPHIA, "reason", str(lab / "caps.jsonl"), "--backend", "parrot", "-n", "2", "--max-tokens", "3"]
    done = subprocess.run(command, cwd=tmp_path, env={**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}, capture_output=True)
    rows = records_of(done.stdout)
    assert done.returncode == 0 and len(rows) == 32, done.stderr
    assert all(row["trajectory_tokens"] == 3 == len(row["trajectory"].split()) for row in rows)
    assert {row["finish_reason"] for row in rows} == {"length"}


def answers(backend: Any, requests: list[Any]) -> list[Any]:
    """Returns the backend's answers to the requests, in their order."""
    from sophia_cli.inference.types import Job
    from sophia_cli.runtime.read_ahead import ReadAhead

    jobs = [Job({}, {"place": place}, request) for place, request in enumerate(requests)]
    found = {job.ids["place"]: outcome for job, outcome in backend.stream(ReadAhead(jobs))}
    assert len(found) == len(requests)
    return [found[place] for place in range(len(requests))]


def test_each_row_of_a_batch_ends_at_its_own_limit(lab: Path) -> None:
    from sophia_cli.backends.hf import Backend
    from sophia_cli.inference.backend_options import BackendOptions
    from sophia_cli.inference.types import Completion, Request, SamplingParams
    from sophia_cli.models.aliases import resolve_model

    backend = Backend(resolve_model("tiny-reasoner"), BackendOptions())
    messages = [{"role": "user", "content": "What is it?"}]
    limits = [3, 60, 17, 41]
    found = answers(backend, [Request(messages, SamplingParams(max_tokens=most), 5) for most in limits])
    (longest,) = answers(backend, [Request(messages, SamplingParams(max_tokens=60), 5)])
    assert isinstance(longest, Completion) and longest.tokens > 41
    for most, one in zip(limits, found, strict=True):
        assert isinstance(one, Completion) and one.tokens == min(most, longest.tokens)
        assert longest.text.startswith(one.text) and one.finish_reason == (
            "length" if most < longest.tokens else longest.finish_reason
        )


@pytest.mark.slow
def test_rows_that_join_a_running_batch_say_what_they_say_alone(lab: Path) -> None:
    """With very different limits and prompts, more jobs than rows, a prompt beyond the context, and two temperatures."""
    from sophia_cli.backends import hf
    from sophia_cli.inference.backend_options import BackendOptions
    from sophia_cli.inference.types import Failure, Request, SamplingParams
    from sophia_cli.models.aliases import resolve_model

    draw = random.Random(5)
    requests = []
    for seed in range(60):
        content = "How many shapes are there? " * draw.choice([1, 2, 5, 9])
        style = {"temperature": 0.7, "top_p": 0.9} if seed > 50 else {}
        sampling = SamplingParams(max_tokens=draw.choice([1, 5, 40, 90, 170]), **style)
        requests.append(Request([{"role": "user", "content": content}], sampling, seed))
    requests[30] = Request([{"role": "user", "content": "why " * 5000}], SamplingParams(max_tokens=5), 0)
    few, alone = (hf.Backend(resolve_model("tiny-reasoner"), BackendOptions(concurrency=rows)) for rows in (7, 1))
    together = answers(few, requests)
    assert (
        together
        == answers(alone, requests)
        == answers(hf.Backend(resolve_model("tiny-reasoner"), BackendOptions()), requests)
    )
    assert [place for place, answer in enumerate(together) if isinstance(answer, Failure)] == [30]


def test_a_batch_is_kept_full(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One long answer and many short ones: the short ones share the other rows and do not wait for the long one."""
    from sophia_cli.backends import hf
    from sophia_cli.inference.backend_options import BackendOptions
    from sophia_cli.inference.types import Job, Request, SamplingParams
    from sophia_cli.models.aliases import resolve_model
    from sophia_cli.runtime.read_ahead import ReadAhead

    monkeypatch.setattr(hf, "TOKENS_PER_STRIDE", 8)
    backend = hf.Backend(resolve_model("tiny-reasoner"), BackendOptions(concurrency=4))
    messages = [{"role": "user", "content": "What is it?"}]
    limits = [40] + [1] * 12
    jobs = [
        Job({}, {"place": place}, Request(messages, SamplingParams(max_tokens=most), 5)) for place, most in enumerate(limits)
    ]
    order = [job.ids["place"] for job, _ in backend.stream(ReadAhead(jobs))]
    assert order == [*range(1, 13), 0]


def test_a_broken_line_costs_none_of_the_answers_under_way(lab: Path, tmp_path: Path) -> None:
    whole = (lab / "caps.jsonl").read_bytes().splitlines(keepends=True)[:8]
    (tmp_path / "caps.jsonl").write_bytes(b"".join(whole) + b"{broken\n")
    done = sophia("reason", "caps.jsonl", "-n", "2", "-o", "raw.jsonl", cwd=tmp_path, code=2)
    assert b"caps.jsonl:9" in done.stderr and len(records_of(tmp_path / "raw.jsonl")) == 16


def test_rows_do_not_join_a_batch_that_would_be_held_at_many_times_its_tokens() -> None:
    from sophia_cli.backends._hf.batch import Batch
    from sophia_cli.backends._hf.cpu_attention import new_cache
    from sophia_cli.inference.types import Job, Request, SamplingParams

    def batch(*lengths: int) -> Batch:
        width = max(lengths)
        mask = torch.tensor([[0] * (width - length) + [1] * length for length in lengths])
        cache = new_cache()
        cache.update(torch.zeros(len(lengths), 1, width - 1, 4), torch.zeros(len(lengths), 1, width - 1, 4), 0)
        jobs = [Job({}, {}, Request([], SamplingParams(max_tokens=1000), 0))] * len(lengths)
        starts = [width - length + 20 for length in lengths]
        return Batch(jobs, torch.zeros_like(mask), mask, cache, [20] * len(lengths), starts, [1000] * len(lengths))

    assert batch(100, 60, 40).has_room_for(5, 40)
    assert not batch(1600).has_room_for(15, 40)
    assert not batch(1600, 60, 60).has_room_for(13, 40)
    long = batch(1600, 60, 70)
    long.keep_rows([1, 2])
    assert long.width == 70 and long.has_room_for(14, 40)


def test_the_models_own_taste_is_left_out(tmp_path: Path) -> None:
    """A checkpoint's repetition penalty is not applied; it would also count the padding of other rows."""
    from sophia_cli.backends.hf import Backend
    from sophia_cli.inference.backend_options import BackendOptions
    from sophia_cli.inference.types import Request, SamplingParams
    from sophia_cli.models.aliases import ModelRef, resolve_model

    folder = tmp_path / "model"
    shutil.copytree(resolve_model("tiny-reasoner").path, folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "repetition_penalty": 1.7, "top_k": 3, "do_sample": True}))
    requests = [
        Request([{"role": "user", "content": "What is it?"}], SamplingParams(max_tokens=40), seed) for seed in range(12)
    ]
    plain = answers(Backend(resolve_model("tiny-reasoner"), BackendOptions()), requests)
    assert plain == answers(Backend(ModelRef("m", str(folder)), BackendOptions()), requests)


@pytest.mark.parametrize("kind", ["gpt2", "mistral", "lfm2"])
def test_models_of_other_kinds_say_the_same_in_any_company(kind: str, tmp_path: Path) -> None:
    """Learned positions that end with the context, a sliding cache, and recurrent states from which no row can be
    removed.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from sophia_cli.backends.hf import Backend
    from sophia_cli.inference.backend_options import BackendOptions
    from sophia_cli.inference.types import Request, SamplingParams
    from sophia_cli.models.aliases import ModelRef, resolve_model

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("tiny-reasoner").path)
    sizes: dict[str, dict[str, Any]] = {
        "gpt2": {"n_positions": 96, "n_embd": 32, "n_layer": 2, "n_head": 2},
        "mistral": {"sliding_window": 16, "num_key_value_heads": 2},
        "lfm2": {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
    }
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    size = sizes[kind] if kind == "gpt2" else {**common, **sizes[kind], "max_position_embeddings": 96}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=640, **size, **ends)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "sophia.json").write_text('{"hf": {"dtype": "float64", "threads": 1}}')
    draw = random.Random(2)
    requests = [
        Request(
            [{"role": "user", "content": "How many? " * draw.randint(1, 4)}],
            SamplingParams(max_tokens=draw.choice([9, 90])),
            seed,
        )
        for seed in range(14)
    ]
    found = [
        answers(Backend(ModelRef("m", str(tmp_path)), BackendOptions(concurrency=rows)), requests) for rows in (1, 5, 14)
    ]
    assert found[0] == found[1] == found[2]
