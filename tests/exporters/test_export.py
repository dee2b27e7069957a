"""Tests of `sophia export`: each format is read by its real library if that can be installed, otherwise checked against
its schema.
"""

import base64
import io
import json
import subprocess
import tempfile
from collections import Counter as Tally
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from helpers.commands import ENVIRONMENT, SOPHIA, records_of, sophia, write_lines
from helpers.records import graded
from helpers.reward_reference import brute_force, data_sets
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sophia_cli.errors import SophiaError
from sophia_cli.io.counter import RecordCounter
from sophia_cli.io.rereadable import RereadableInputs, spooling
from sophia_cli.io.shards import Shard
from sophia_cli.models.aliases import resolve_model
from sophia_cli.models.families import internvl
from sophia_cli.rewards.preference_pairs import preference_pairs
from sophia_cli.rewards.trajectory import SelectionRule

ONE_STEP = {
    "max_steps": 1, "per_device_train_batch_size": 2, "report_to": "none", "use_cpu": True, "bf16": False,
    "max_length": None, "save_strategy": "no", "disable_tqdm": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def kept(lab: Path) -> Path:
    """The lab's folder with `kept.jsonl`: selected records; one has two images, one has a list as its answer."""
    rows = records_of(sophia("propagate", "traj.jsonl", "--alpha", "0.4", "--selected", cwd=lab).stdout)
    rows[1]["image"] = [rows[1]["image"], rows[0]["image"]]
    rows[1]["answer"], rows[1]["late"] = [rows[1]["answer"], "?"], 3
    rows[2]["late"], rows[2]["weight"] = 0.5, 2.5
    write_lines(lab / "kept.jsonl", rows)
    return lab


def export(folder: Path, to: str, *options: str, code: int = 0) -> list[dict[str, Any]]:
    done = sophia("export", "kept.jsonl", "--to", to, "-m", "tiny-vlm", *options, cwd=folder, code=code)
    return records_of(done.stdout)


def one_step(trainer: str, data: Any) -> float:
    """Returns the loss of one step of TRL's trainer on the embedded model."""
    import trl
    from transformers import AutoModelForImageTextToText

    path = resolve_model("tiny-vlm").path
    model = AutoModelForImageTextToText.from_pretrained(path, dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        arguments = getattr(trl, f"{trainer}Config")(output_dir=folder, **ONE_STEP)
        made = getattr(trl, f"{trainer}Trainer")(
            model=model, args=arguments, train_dataset=data, processing_class=internvl.load_processor(path)
        )
        return float(made.train().training_loss)


@pytest.mark.parametrize("images", ["path", "embed"])
def test_trls_sft_trainer_takes_a_step_on_what_is_exported_for_it(kept: Path, images: str, tmp_path: Path) -> None:
    rows = export(kept, "trl", "--images", images)
    records = records_of(kept / "kept.jsonl")
    assert [row["weight"] for row in rows] == [record["weight"] for record in records]
    assert [row["messages"][-1]["content"] for row in rows] == [record["trajectory"] for record in records]
    assert [len(row["images"]) for row in rows] == [1, 2] + [1] * (len(rows) - 2)
    data = load_dataset("json", data_files=str(write_lines(tmp_path / "x.jsonl", rows)), split="train")
    assert 0 < one_step("SFT", data.select([0, 1])) < 20


def test_trls_dpo_trainer_takes_a_step_on_preference_pairs(lab: Path, tmp_path: Path) -> None:
    done = sophia("export", "traj.jsonl", "--to", "trl-preference", "-m", "tiny-vlm", cwd=lab)
    rows, texts = records_of(done.stdout), {row["trajectory"]: row for row in records_of(lab / "traj.jsonl")}
    assert rows
    for row in rows:
        right, wrong = (texts[row[side][0]["content"]] for side in ("chosen", "rejected"))
        assert (right["reward"], wrong["reward"], right["id"]) == (1.0, 0.0, wrong["id"])
        assert [turn["role"] for turn in row["prompt"]] == ["system", "user"]
    data = load_dataset("json", data_files=str(write_lines(tmp_path / "x.jsonl", rows * 2)), split="train")
    assert 0 < one_step("DPO", data) < 20


def test_a_folder_for_the_hub_loads_with_its_images_and_every_column(kept: Path, tmp_path: Path) -> None:
    export(kept, "datasets", "-o", str(tmp_path / "set"))
    records = records_of(kept / "kept.jsonl")
    data = load_dataset(str(tmp_path / "set"), split="train")
    assert set(data.column_names) == {*(name for record in records for name in record), "images", "messages"} - {"image"}
    assert data["id"] == [record["id"] for record in records]
    assert data["late"][:4] == [None, 3.0, 0.5, None]
    assert data["answer"][1] == json.dumps(records[1]["answer"], ensure_ascii=False)
    assert [len(images) for images in data["images"]] == [1, 2] + [1] * (len(records) - 2)
    with Image.open(kept / records[0]["image"]) as image:
        assert data[0]["images"][0].size == image.size
        assert data[0]["images"][0].convert("RGB").tobytes() == image.convert("RGB").tobytes()
    assert 0 < one_step("SFT", data.select_columns(["messages", "images"]).select([0, 1])) < 20
    export(kept, "datasets", "-o", str(tmp_path / "set"), "--force", "--limit", "2")
    assert len(load_dataset(str(tmp_path / "set"), split="train")) == 2


def test_parquet_is_one_file_with_images_in_it_or_beside_it(kept: Path, tmp_path: Path) -> None:
    export(kept, "parquet", "-o", str(tmp_path / "x.parquet"))
    data = load_dataset("parquet", data_files=str(tmp_path / "x.parquet"), split="train")
    assert len(data) == len(records_of(kept / "kept.jsonl"))
    assert json.loads((tmp_path / "x.parquet.manifest.json").read_text())["counts"]["out"] == len(data)
    by_path = tmp_path / "path.parquet"
    export(kept, "parquet", "-o", str(by_path), "--images", "path")
    assert load_dataset("parquet", data_files=str(by_path), split="train")[0]["images"][0].size == data[0]["images"][0].size


def test_verl_gets_the_columns_of_its_rl_and_sft_data_sets(kept: Path, tmp_path: Path) -> None:
    export(kept, "verl", "-o", str(tmp_path / "x.parquet"))
    records = records_of(kept / "kept.jsonl")
    for row, record in zip(
        load_dataset("parquet", data_files=str(tmp_path / "x.parquet"), split="train"), records, strict=True
    ):
        gold = record["answer"] if isinstance(record["answer"], list) else [record["answer"]]
        assert row["reward_model"] == {"style": "rule", "ground_truth": gold[0]}
        assert row["extra_info"]["answer"] == gold
        assert row["prompt"][-1]["content"].count("<image>") == len(row["images"])
        assert row["messages"][:-1] == row["prompt"]
        assert row["messages"][-1]["content"] == record["trajectory"]


def test_verl_and_batches_accept_items_without_answers(kept: Path, tmp_path: Path) -> None:
    items = [
        {field: row[field] for field in ("id", "image", "question", "answer")} for row in records_of(kept / "caps.jsonl")
    ]
    write_lines(kept / "items.jsonl", items)
    sophia("export", "items.jsonl", "--to", "verl", "-o", str(tmp_path / "rl.parquet"), cwd=kept)
    data = load_dataset("parquet", data_files=str(tmp_path / "rl.parquet"), split="train")
    assert len(data) == 8
    assert "messages" not in data.column_names
    requests = records_of(sophia("export", "items.jsonl", "--to", "openai-batch", "-m", "gpt-x", cwd=kept).stdout)
    assert [request["custom_id"] for request in requests] == list(dict.fromkeys(item["id"] for item in items))


def test_llamafactory_gets_a_folder_as_its_readme_asks_for(kept: Path, tmp_path: Path) -> None:
    export(kept, "llamafactory", "-o", str(tmp_path / "data"))
    described = json.loads((tmp_path / "data" / "dataset_info.json").read_text())["sophia"]
    assert described["formatting"] == "sharegpt"
    columns, tags = described["columns"], described["tags"]
    roles = {tags["system_tag"], tags["user_tag"], tags["assistant_tag"]}
    rows = records_of(tmp_path / "data" / described["file_name"])
    assert len(rows) == len(records_of(kept / "kept.jsonl"))
    for row in rows:
        turns = row[columns["messages"]]
        assert {turn[tags["role_tag"]] for turn in turns} <= roles
        assert turns[-1][tags["role_tag"]] == tags["assistant_tag"]
        marks = sum(turn[tags["content_tag"]].count("<image>") for turn in turns)
        assert marks == len(row[columns["images"]])
        assert all(Path(image).is_absolute() and Path(image).is_file() for image in row[columns["images"]])


def test_swift_gets_the_weight_as_the_loss_scale_of_the_answer(kept: Path) -> None:
    for row, record in zip(export(kept, "swift"), records_of(kept / "kept.jsonl"), strict=True):
        assert row["messages"][-1] == {"role": "assistant", "content": record["trajectory"], "loss_scale": record["weight"]}
        assert row["messages"][-2]["content"].startswith("<image>" * len(row["images"]))
        assert set(row) == {"messages", "images"}


def test_a_batch_asks_each_item_once_with_its_images_in_it(kept: Path) -> None:
    rows = records_of(sophia("export", "traj.jsonl", "--to", "openai-batch", "-m", "gpt-x", cwd=kept).stdout)
    assert len(rows) == len({row["custom_id"] for row in rows}) == 8
    for row in rows:
        assert (row["method"], row["url"], row["body"]["model"]) == ("POST", "/v1/chat/completions", "gpt-x")
        system, user = row["body"]["messages"]
        assert "<think>" in system["content"]
        kinds = [part["type"] for part in user["content"]]
        assert kinds == ["image_url", "text"]
        data = base64.b64decode(user["content"][0]["image_url"]["url"].removeprefix("data:image/png;base64,"))
        Image.open(io.BytesIO(data)).load()
    sophia("export", "traj.jsonl", "--to", "openai-batch", cwd=kept, code=2)
    by_path = sophia("export", "traj.jsonl", "--to", "openai-batch", "-m", "x", "--images", "path", cwd=kept, code=3)
    assert b"--images embed" in by_path.stderr


@settings(max_examples=200)
@given(data_sets(), st.integers(1, 3), st.integers(1, 3), st.integers(0, 9))
def test_pairs_are_right_and_wrong_trajectories_of_one_item(
    records: list[dict[str, Any]], keep: int, most: int, seed: int
) -> None:
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(b"".join(json.dumps(record).encode() + b"\n" for record in records + records[:2]))
        file.flush()
        rule = SelectionRule(alpha=0.5, keep=keep, seed=seed)
        pairs = list(preference_pairs(RereadableInputs([file.name]), rule, most, Shard(), RecordCounter()))
        parts = [
            list(preference_pairs(RereadableInputs([file.name]), rule, most, Shard(i, 2), RecordCounter())) for i in range(2)
        ]
    names = [record["trajectory_id"] for pair in pairs for record in pair]
    assert len(names) == len(set(names))
    for right, wrong in pairs:
        assert (right["reward"], wrong["reward"]) == (1.0, 0.0)
        assert right["id"] == wrong["id"]
    by_item = Tally(right["id"] for right, _ in pairs)
    _, selected = brute_force(records, 0.5, keep)
    for item in {record["id"] for record in records}:
        rewards = [record["reward"] for record in records if record["id"] == item]
        assert by_item[item] == min(rewards.count(1.0), rewards.count(0.0), most)
        chosen = {right["trajectory_id"] for right, _ in pairs if right["id"] == item}
        kept_here = {name for name in selected if name.startswith(f"{item}/")}
        assert len(chosen & kept_here) == min(len(chosen), len(kept_here))
    assert sorted(map(str, pairs)) == sorted(map(str, parts[0] + parts[1]))


def test_records_that_cannot_be_exported_are_named_and_the_rest_is_written(kept: Path, tmp_path: Path) -> None:
    rows = records_of(kept / "kept.jsonl")
    for row in rows:
        row["image"] = [str(kept / image) for image in ([row["image"]] if isinstance(row["image"], str) else row["image"])]
    rows[0]["image"] = "nowhere.png"
    rows[3]["question"] = "<image> <image>?"
    (tmp_path / "text.png").write_text("no image")
    rows[4]["image"] = "text.png"
    write_lines(tmp_path / "x.jsonl", rows)
    done = sophia("export", "x.jsonl", "--to", "swift", "--images", "embed", cwd=tmp_path, code=3)
    assert len(records_of(done.stdout)) == len(rows) - 3
    table = sophia("export", "x.jsonl", "--to", "verl", "-o", "x.parquet", cwd=tmp_path, code=3)
    assert len(load_dataset("parquet", data_files=str(tmp_path / "x.parquet"), split="train")) == len(rows) - 3
    for said in (done.stderr.decode(), table.stderr.decode()):
        missing = "x.jsonl:1: field `image`: nowhere.png cannot be read"
        for words in (
            missing,
            "2 images are marked in the text, and there are 1 images",
            "text.png cannot be opened (not an image)",
        ):
            assert words in said
        for row in (rows[0], rows[3], rows[4]):
            assert f"{row['trajectory_id']} failed" in said


def test_what_is_there_is_not_replaced_unless_asked(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    done = sophia("export", "kept.jsonl", "--to", "datasets", "-o", str(tmp_path / "set"), cwd=kept, code=2)
    assert b"--force" in done.stderr
    done = sophia("export", "kept.jsonl", "--to", "datasets", "-o", str(tmp_path / "set"), "--force", cwd=kept, code=2)
    assert b"is not a folder of `sophia export`" in done.stderr
    assert (tmp_path / "set" / "mine.txt").read_text() == "mine"
    (tmp_path / "ours.draft").mkdir()
    for force in ((), ("--force",)):
        export(kept, "datasets", "-o", str(tmp_path / "ours"), *force)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "ours.draft", "ours.manifest.json", "set"]
    before = (kept / "kept.jsonl").read_bytes()
    for to, out in (
        ("parquet", "kept.jsonl"),
        ("llamafactory", "imgs"),
        ("parquet", "-"),
        ("parquet", "."),
        ("verl", "/dev/full"),
    ):
        sophia("export", "kept.jsonl", "--to", to, "-o", out, "--force", cwd=kept, code=2)
    assert (kept / "kept.jsonl").read_bytes() == before
    assert (kept / "imgs" / "metadata.jsonl").exists()


def test_graded_records_are_propagated_and_weights_are_taken_as_they_are(lab: Path, kept: Path) -> None:
    done = sophia("export", "traj.jsonl", "--to", "trl", "--alpha", "0.4", "--keep", "2", cwd=lab)
    ours = records_of(sophia("propagate", "traj.jsonl", "--alpha", "0.4", "--keep", "2", "--selected", cwd=lab).stdout)
    assert [row["id"] for row in records_of(done.stdout)] == [row["trajectory_id"] for row in ours]
    assert b"propagated here" in done.stderr
    sophia("export", "kept.jsonl", "--to", "trl", "--alpha", "0.4", cwd=kept, code=2)
    from_pipe = sophia("export", "--to", "trl", "--limit", "2", cwd=kept, stdin=(kept / "kept.jsonl").read_bytes())
    assert len(records_of(from_pipe.stdout)) == 2


def test_a_pipe_is_read_as_a_file_is(kept: Path) -> None:
    command = f"{' '.join(SOPHIA)} export <(cat kept.jsonl) --to trl"
    done = subprocess.run(["bash", "-c", command], cwd=kept, env=ENVIRONMENT, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(records_of(done.stdout)) == len(records_of(kept / "kept.jsonl"))


def test_what_failed_before_is_named_and_counted(kept: Path, tmp_path: Path) -> None:
    rows = [*records_of(kept / "kept.jsonl")[:2], {"id": "z", "caption_id": "z/c0", "error": "no caption"}]
    write_lines(kept / "some.jsonl", rows)
    lines = sophia("export", "some.jsonl", "--to", "trl", cwd=kept, code=3)
    table = sophia("export", "some.jsonl", "--to", "parquet", "-o", str(tmp_path / "x.parquet"), cwd=kept, code=3)
    assert len(records_of(lines.stdout)) == 2
    assert b"z/c0 skipped, it failed before: no caption" in lines.stderr
    assert b"z/c0 skipped, it failed before: no caption" in table.stderr
    write_lines(kept / "none.jsonl", rows[2:])
    done = sophia("export", "none.jsonl", "--to", "parquet", "-o", str(tmp_path / "y.parquet"), cwd=kept, code=2)
    assert b"nothing to export" in done.stderr


def test_odd_values_cost_their_record_at_most(kept: Path, tmp_path: Path) -> None:
    rows = [dict(row) for row in records_of(kept / "kept.jsonl")[:5]]
    rows[0]["number"], rows[1]["number"], rows[2]["question"] = 2**60 + 1, 0.5, "half \ud800?"
    rows[3]["messages"], rows[4]["answer"] = "mine", None
    (kept / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = sophia("export", "odd.jsonl", "--to", "datasets", "-o", str(tmp_path / "set"), cwd=kept, code=3)
    assert f"{rows[2]['trajectory_id']} failed: field `question` holds half".encode() in done.stderr
    data = load_dataset(str(tmp_path / "set"), split="train")
    assert data["number"] == [str(2**60 + 1), "0.5", None, None]
    assert data["own_messages"] == [None, None, "mine", None]


def test_items_are_known_by_number_too_and_two_of_one_id_are_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "x.jsonl", [{"id": 7, "question": "1 + 1?", "answer": 2}, {"question": "2 + 2?", "answer": "4"}])
    rows = records_of(sophia("export", "x.jsonl", "--to", "openai-batch", "-m", "m", cwd=tmp_path).stdout)
    assert rows[0]["custom_id"] == "7" and len(rows[1]["custom_id"]) == 16
    write_lines(tmp_path / "y.jsonl", [{"id": "7", "question": "1 + 1?"}, {"id": "7", "question": "2 + 2?"}])
    done = sophia("export", "y.jsonl", "--to", "openai-batch", "-m", "m", cwd=tmp_path, code=2)
    assert b"y.jsonl:2: field `id` '7' is used for another question" in done.stderr


def test_a_record_without_a_trajectory_is_never_an_answer(kept: Path, tmp_path: Path) -> None:
    first, wrong = {"id": "i", "question": "1?", "answer": "1"}, {**records_of(kept / "kept.jsonl")[0], "reward": 0.0}
    del wrong["weight"], wrong["selected"], wrong["caption_reward"]
    write_lines(kept / "mixed.jsonl", [first, wrong])
    sophia("export", "mixed.jsonl", "--to", "verl", "-o", str(tmp_path / "x.parquet"), cwd=kept, code=2)
    write_lines(kept / "bare.jsonl", [{"id": "i", "question": "1?", "weight": 1.0}])
    done = sophia("export", "bare.jsonl", "--to", "trl", cwd=kept, code=3)
    assert done.stdout == b"" and b"field `trajectory` is missing" in done.stderr


def test_what_is_exported_for_trl_can_be_mixed_in_again(kept: Path, tmp_path: Path) -> None:
    (kept / "trl.jsonl").write_bytes(sophia("export", "kept.jsonl", "--to", "trl", "-m", "tiny-vlm", cwd=kept).stdout)
    done = sophia("train", "kept.jsonl", "--mix", "trl.jsonl", "--dry-run", "-o", str(tmp_path / "out"), cwd=kept)
    assert f"{2 * len(records_of(kept / 'kept.jsonl'))} rows" in done.stderr.decode()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--to", "csv"), ["csv", "trl-preference"]),
        (("--to", "verl"), ["verl", "-o"]),
        (("--to", "trl", "--images", "zip"), ["--images zip", "embed"]),
    ],
)
def test_wrong_usage_names_the_remedy(kept: Path, options: tuple[str, ...], words: list[str]) -> None:
    message = sophia("export", "kept.jsonl", *options, cwd=kept, code=2).stderr.decode()
    assert all(word in message for word in words)


def test_a_record_of_no_trajectory_is_an_error_that_names_it(tmp_path: Path) -> None:
    rows = [graded("q", 0, 0, 1.0, 3, 1)]
    del rows[0]["caption_id"]
    write_lines(tmp_path / "x.jsonl", rows)
    for to in ("trl", "trl-preference"):
        done = sophia("export", "x.jsonl", "--to", to, cwd=tmp_path, code=2)
        assert "x.jsonl:1: field `caption_id` is missing" in done.stderr.decode()


def one_record(folder: Path, **fields: Any) -> None:
    row = {**graded("a", 0, 0, 1.0, 9, 1), "weight": 1.0, "image": "i.png", **fields}
    if not (folder / "i.png").exists():
        Image.new("RGB", (4, 4), "red").save(folder / "i.png")
    write_lines(folder / "kept.jsonl", [row])


@pytest.mark.parametrize("embedded", [True, False])
def test_llamafactory_finds_every_image_as_a_file(embedded: bool, tmp_path: Path) -> None:
    """Paths are relative to the folder, as in its default `media_dir`; it does not read data URIs."""
    one_record(tmp_path)
    uri = f"data:image/png;base64,{base64.b64encode((tmp_path / 'i.png').read_bytes()).decode()}"
    one_record(tmp_path, image=["i.png", uri, f"file://{tmp_path}/i.png"])
    options = ("--images", "embed") if embedded else ()
    sophia("export", "kept.jsonl", "--to", "llamafactory", "-o", "lf", *options, cwd=tmp_path)
    (row,) = records_of(tmp_path / "lf/sophia.jsonl")
    assert [Image.open(tmp_path / "lf" / image).size for image in row["images"]] == [(4, 4)] * 3
    one_record(tmp_path, image="https://example.org/i.png")
    named = sophia("export", "kept.jsonl", "--to", "llamafactory", "-o", "url", cwd=tmp_path, code=3)
    assert "is not a file; export with --images embed" in named.stderr.decode()


@pytest.mark.parametrize("to", ["trl", "swift", "trl-preference"])
def test_a_file_url_goes_out_as_a_path_and_one_of_no_file_is_named(to: str, tmp_path: Path) -> None:
    one_record(tmp_path)
    rows = [{**graded("a", 0, n, float(n), 9, 2), "image": f"file://{tmp_path}/i.png"} for n in range(2)]
    write_lines(tmp_path / "kept.jsonl", [{**row, "weight": row["reward"]} for row in rows])
    (row,) = records_of(sophia("export", "kept.jsonl", "--to", to, cwd=tmp_path).stdout)
    assert row["images"] == [str(tmp_path / "i.png")]
    (tmp_path / "i.png").unlink()
    assert "no such file" in sophia("export", "kept.jsonl", "--to", to, cwd=tmp_path, code=3).stderr.decode()


def test_verl_opens_images_out_of_the_file_alone(tmp_path: Path) -> None:
    one_record(tmp_path)
    options = ["--to", "verl", "--images", "path", "-o", "v.parquet"]
    assert "omit --images path" in sophia("export", "kept.jsonl", *options, cwd=tmp_path, code=2).stderr.decode()


@pytest.mark.parametrize("mark", ["<video>", "<audio>"])
@pytest.mark.parametrize("to", ["llamafactory", "swift", "verl"])
def test_marks_of_other_media_are_named(to: str, mark: str, tmp_path: Path) -> None:
    one_record(tmp_path, question=f"What is {mark}?")
    out = [] if to == "swift" else ["-o", "out"]
    assert mark in sophia("export", "kept.jsonl", "--to", to, *out, cwd=tmp_path, code=3).stderr.decode()


@pytest.mark.parametrize("to", ["trl", "openai-batch"])
def test_half_of_a_surrogate_pair_costs_its_record_and_not_the_file(to: str, tmp_path: Path) -> None:
    one_record(tmp_path)
    good = (tmp_path / "kept.jsonl").read_bytes()
    bad = good.replace(b'"question":"?"', b'"question":"\\ud800"').replace(b'"question": "?"', b'"question": "\\ud800"')
    bad = bad.replace(b'"id":"a"', b'"id":"b"').replace(b'"id": "a"', b'"id": "b"')
    (tmp_path / "kept.jsonl").write_bytes(good + bad)
    done = sophia(
        "export", "kept.jsonl", "--to", to, "-m", "m" if to == "openai-batch" else "tiny-vlm", cwd=tmp_path, code=3
    )
    assert len(records_of(done.stdout)) == 1 and "surrogate" in done.stderr.decode()
    (tmp_path / "x.jsonl").write_bytes(done.stdout)
    assert len(load_dataset("json", data_files=str(tmp_path / "x.jsonl"), split="train")) == 1


def test_a_full_temporary_folder_is_reported(tmp_path: Path) -> None:
    """The temporary copy of a pipe meets a full disk; /dev/full simulates it."""
    with pytest.raises(SophiaError, match="temporary file cannot be written"), spooling():
        Path("/dev/full").write_bytes(b"x")
