"""Tests of sources as people have them: other columns, containers, ids, options, and rows that occur twice."""

import gzip
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as DatasetImage
from helpers.commands import records_of, sophia, write_lines
from PIL import Image
from pyarrow import parquet

from sophia_cli.errors import InputError, UsageError
from sophia_cli.records import Record, choices_of
from sophia_cli.sources.items import read_items


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with two images."""
    monkeypatch.chdir(tmp_path)
    for name, color in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (32, 32), color).save(name)
    return tmp_path


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "green").save(out, "PNG")
    return out.getvalue()


def items(source: str) -> list[dict[str, Any]]:
    return [dict(item) for item in read_items(source)]


@pytest.mark.parametrize("images", [["a.png"], "a.png", ["a.png", "b.png"]])
def test_an_images_column_is_read(images: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(folder / "x.jsonl", [{"id": "1", "images": images, "question": "?"}])
    (item,) = items("x.jsonl")
    assert item["image"] == images
    assert "column `images` is read as `image`" in capsys.readouterr().err


def test_a_problem_column_is_the_question_and_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"image": "a.png", "problem": "Find x.", "answer": "1"}, {"image": "a.png", "problem": "Find y.", "answer": "1"}]
    write_lines(folder / "x.jsonl", rows)
    found = items("x.jsonl")
    assert [(item["question"], item["problem"]) for item in found] == [("Find x.", "Find x."), ("Find y.", "Find y.")]
    assert found[0]["id"] != found[1]["id"]
    assert capsys.readouterr().err.count("is read as `question`") == 1


@pytest.mark.parametrize(("given", "name"), [(2.0, "2"), (2, "2"), ("a/b c", "a/b c"), (1.5, "1.5")])
def test_ids_as_tables_hold_them(given: Any, name: str, folder: Path) -> None:
    write_lines(folder / "x.jsonl", [{"id": given, "image": "a.png", "question": "?"}])
    assert items("x.jsonl")[0]["id"] == name


@pytest.mark.parametrize("given", [True, "", [1]])
def test_other_ids_are_an_error_of_the_row(given: Any, folder: Path) -> None:
    write_lines(folder / "x.jsonl", [{"id": given, "image": "a.png", "question": "?"}])
    assert "field `id` is empty, or neither text nor number" in items("x.jsonl")[0]["error"]


def test_parquet_with_plain_bytes_and_narrow_floats(folder: Path) -> None:
    columns = {
        "image": pa.array([png()], pa.binary()),
        "question": ["?"],
        "answer": pa.array([0.1], pa.float32()),
        "half": pa.array([np.float16(2.7)], pa.float16()),
        "several": pa.array([[33.3, None]], pa.list_(pa.float32())),
        "double": [0.1 + 0.2],
    }
    parquet.write_table(pa.table(columns), folder / "x.parquet")
    (item,) = items("x.parquet")
    assert item["image"].startswith("data:image/png;base64,")
    assert (item["answer"], item["half"], item["several"], item["double"]) == (0.1, 2.7, [33.3, None], 0.1 + 0.2)


def test_a_datasets_folder_with_narrow_floats(folder: Path) -> None:
    features = Features({"id": Value("string"), "question": Value("string"), "answer": Value("float32")})
    rows = {"id": ["1"], "question": ["?"], "answer": [0.1]}
    Dataset.from_dict(rows, features=features).save_to_disk(str(folder / "saved"))
    assert items("saved")[0]["answer"] == 0.1


def test_a_clone_of_a_hub_data_set(folder: Path) -> None:
    (folder / "clone/data").mkdir(parents=True)
    table = pa.table({"id": ["1"], "question": ["?"], "image": pa.array([png()], pa.binary())})
    parquet.write_table(table, folder / "clone/data/train-00000-of-00001.parquet")
    assert [item["id"] for item in items("clone")] == ["1"]
    parquet.write_table(table, folder / "clone/data/test-00000-of-00001.parquet")
    with pytest.raises(UsageError, match="holds the splits test, train; give the file of one"):
        items("clone")


def test_a_folder_of_splits_names_them(folder: Path) -> None:
    for split in ("train", "test"):
        (folder / "two" / split).mkdir(parents=True)
        (folder / "two" / split / "metadata.jsonl").write_text("")
    with pytest.raises(UsageError, match="holds the splits test, train; choose one, as in two/test"):
        items("two")


def test_json_files(folder: Path) -> None:
    rows = [{"id": "1", "image": "a.png", "question": "?"}, {"id": "2", "image": "b.png", "question": "?"}]
    Path("array.json").write_text(json.dumps(rows, indent=2))
    Path("by_id.json").write_text(json.dumps({row["id"]: {"image": row["image"], "question": "?"} for row in rows}))
    Path("lines.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("array.json", "by_id.json", "lines.json"):
        assert [(item["id"], item["image"]) for item in items(name)] == [("1", "a.png"), ("2", "b.png")]
    Path("bad.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="not an array or an object of items"):
        items("bad.json")
    Path("cut.json").write_text(json.dumps(rows, indent=2)[:40])
    with pytest.raises(InputError, match="cut.json: not JSON"):
        items("cut.json")


@pytest.mark.parametrize(
    "choices",
    [
        ["1", "2"],
        {"A": "1", "B": "2"},
        {"B": "2", "A": "1"},
        [{"label": "A", "text": "1"}, {"label": "B", "text": "2"}],
        [{"label": "B", "content": "2"}, {"label": "A", "content": "1"}],
        [{"text": "1"}, {"text": "2"}],
        {"1": "1", "2": "2"},
        {"text": ["1", "2"], "label": ["A", "B"]},
        [["A", "1"], ["B", "2"]],
        [{"value": "A", "label": "1"}, {"value": "B", "label": "2"}],
        {"A": "1", "B": "2", "C": None},
    ],
)
def test_options_in_any_form(choices: Any) -> None:
    assert choices_of(Record({"choices": choices})) == ["1", "2"]


def test_many_options_stay_in_order() -> None:
    assert choices_of(Record({"choices": [{"text": str(n)} for n in range(40)]})) == [str(n) for n in range(40)]
    assert choices_of(Record({"choices": {str(n): str(n) for n in (10, 2, 1)}})) == ["1", "2", "10"]


def test_an_empty_source_is_said(folder: Path) -> None:
    Path("x.jsonl").write_text("")
    done = sophia("caption", "x.jsonl", "-k", "1", cwd=folder)
    assert "0 items in x.jsonl" in done.stderr.decode() and done.stdout == b""


@pytest.mark.parametrize("own", [True, False])
def test_a_row_that_occurs_twice_is_named_before_the_first_sample(own: bool, folder: Path) -> None:
    rows = [{"image": "a.png", "question": f"{n}?", "answer": "1", **({"id": str(n)} if own else {})} for n in range(20)]
    write_lines(folder / "x.jsonl", [*rows, rows[6]])
    done = sophia("caption", "x.jsonl", "-k", "1", "--max-tokens", "2", "-o", "out.jsonl", cwd=folder, code=2)
    assert "x.jsonl:21: " in done.stderr.decode() and "is also at x.jsonl:7" in done.stderr.decode()
    assert not records_of(folder / "out.jsonl")


def test_a_row_of_a_csv_folder_that_occurs_twice_is_named_first(folder: Path) -> None:
    rows = "".join(f"a.png,{n}?,1\n" for n in range(5))
    (folder / "metadata.csv").write_text(f"file_name,question,answer\n{rows}a.png,2?,1\n")
    with pytest.raises(UsageError, match="metadata.csv:7: the same image, question and answer is also at metadata.csv:4"):
        next(read_items("."))


def test_a_null_column_is_no_column(folder: Path) -> None:
    write_lines(folder / "x.jsonl", [{"id": "1", "image": None, "images": ["a.png"], "question": None, "problem": "?"}])
    (item,) = items("x.jsonl")
    assert item["image"] == item["images"] == ["a.png"] and item["question"] == "?"


@pytest.mark.parametrize("column", ["image", "images"])
def test_a_source_without_a_question_says_so(column: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(folder / "x.jsonl", [{"id": str(n), column: "a.png", "instruction": "?"} for n in range(3)])
    items("x.jsonl")
    assert capsys.readouterr().err.count(f"no column `question` (there are id, {column}, instruction)") == 1


def test_items_that_differ_in_their_answer_are_two(folder: Path) -> None:
    write_lines(folder / "x.jsonl", [{"image": "a.png", "question": "?", "answer": answer} for answer in ("1", "2")])
    assert len({item["id"] for item in items("x.jsonl")}) == 2


@pytest.mark.parametrize("ids", [(1, "1"), (2, 2.0), ("a", "a")])
def test_equal_ids_are_found_before_the_first_item(ids: tuple[Any, Any], folder: Path) -> None:
    write_lines(folder / "x.jsonl", [{"id": name, "image": "a.png", "question": "?"} for name in ids])
    with pytest.raises(UsageError, match="x.jsonl:2: field `id`"):
        next(read_items("x.jsonl"))
    table = pa.table({"id": ["a", "b", "a"], "image": ["a.png"] * 3})
    parquet.write_table(table, "x.parquet")
    with pytest.raises(UsageError, match="x.parquet:3: field `id` 'a' is also at x.parquet:1"):
        next(read_items("x.parquet"))


def test_embedded_images_do_not_fill_the_memory_of_the_first_pass(folder: Path) -> None:
    image = "data:image/png;base64," + "A" * 1_000_000
    with open("x.jsonl", "w") as file:
        for number in range(100):
            file.write(json.dumps({"id": str(number), "image": image, "question": "?"}) + "\n")
    tracemalloc.start()
    next(read_items("x.jsonl"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30_000_000


@pytest.mark.parametrize(
    "struct", [{"bytes": png()}, {"bytes": png(), "path": "x.png", "width": 8}, [{"bytes": png(), "path": None}, None]]
)
def test_images_in_structs_of_other_shapes(struct: Any, folder: Path) -> None:
    parquet.write_table(pa.Table.from_pylist([{"id": "1", "pic": struct, "sha": b"\x01\x02", "question": "?"}]), "x.parquet")
    (item,) = items("x.parquet")
    assert str(item["image"]).startswith("data:image/png;base64,") and item["sha"] == "0102"


def test_lists_of_images_in_saved_folders(folder: Path) -> None:
    features = Features({"id": Value("string"), "images": List(DatasetImage()), "question": Value("string")})
    rows = [{"id": "1", "images": [{"bytes": png(), "path": None}], "question": "?"}]
    Dataset.from_list(rows, features=features).save_to_disk("saved")
    (item,) = items("saved")
    assert str(item["image"]).startswith("data:image/png;base64,")


@pytest.mark.parametrize("names", [("0000", "0001"), ("part.0", "part.1"), ("train-00000-of-00002", "train-00001-of-00002")])
@pytest.mark.parametrize("inside", ["", "data", "default/train"])
def test_parts_of_one_split_are_one_source(names: tuple[str, str], inside: str, folder: Path) -> None:
    place = folder / "clone" / inside
    place.mkdir(parents=True)
    for number, name in enumerate(names):
        row = {"id": str(number), "image": "a.png", "question": "?"}
        parquet.write_table(pa.Table.from_pylist([row]), place / f"{name}.parquet")
    assert [item["id"] for item in items("clone")] == ["0", "1"]


def test_a_missing_part_and_a_pointer_are_named(folder: Path) -> None:
    (folder / "clone").mkdir()
    file = folder / "clone" / "train-00000-of-00002.parquet"
    parquet.write_table(pa.table({"id": ["1"], "image": ["a.png"]}), file)
    with pytest.raises(InputError, match="train has 2 parts and not all are here"):
        items("clone")
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(InputError, match="git lfs pull"):
        items(str(file))


def test_json_as_programs_write_it(folder: Path) -> None:
    row = '{"id": "1", "image": "a.png", "question": "?"}'
    Path("bom.json").write_bytes(b"\xef\xbb\xbf[" + row.encode() + b"]")
    Path("data.json").write_text('{"data": [' + row + "]}")
    with gzip.open("array.json.gz", "wt") as file:
        file.write(f"[{row}]")
    for name in ("bom.json", "data.json", "array.json.gz"):
        assert [item["id"] for item in items(name)] == ["1"]
    Path("lines.json").write_text(row + "\n" + row.replace("1", "2") + "\n{oops\n")
    with pytest.raises(InputError, match="lines.json:3: not a JSON object"):
        items("lines.json")
    Path("splits.json").write_text('{"train": [' + row + '], "test": [' + row + "]}")
    with pytest.raises(InputError, match="holds the splits train, test"):
        items("splits.json")


def test_contamination_is_found_under_other_column_names(folder: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save("b.png")
    write_lines(
        folder / "bench.jsonl", [{"id": "b", "image": "b.png", "question": "How many red squares are there in all?"}]
    )
    rows = [{"id": "p", "image": "a.png", "problem": "<image_1>How many red squares are there in all?"}]
    write_lines(folder / "x.jsonl", [*rows, {"id": "q", "images": ["b.png"], "problem": "Something else entirely, no?"}])
    done = sophia("decontaminate", "x.jsonl", "--against", "bench.jsonl", cwd=folder)
    assert done.stdout == b"" and b"1 by text, 1 by image" in done.stderr


@pytest.mark.parametrize("images", ["a.png", ["a.png"]])
def test_no_step_drops_an_images_column(images: Any, folder: Path) -> None:
    write_lines(folder / "x.jsonl", [{"id": "1", "image": None, "images": images, "question": "?", "answer": "1"}])
    done = sophia("export", "x.jsonl", "--to", "openai-batch", "--model", "m", cwd=folder)
    assert b"image_url" in done.stdout
    for objective in ("grpo", "sft"):
        done = sophia("train", "x.jsonl", "--objective", objective, "--dry-run", "-o", "none", cwd=folder, code=None)
        assert "<img>" in done.stderr.decode()
