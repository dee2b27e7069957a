"""Tests that the marks of images in a question mean the same in every step: eval, training, exports, the reasoner."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import records_of, sophia, write_lines
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from sophia_cli.errors import RecordError
from sophia_cli.prompts.image_marks import place_images, without_marks
from sophia_cli.records import Record
from sophia_cli.steps.eval import answer_request
from sophia_cli.steps.reason import reasoning_request
from sophia_cli.training.examples import mixed_row, question_row, trajectory_row

MARKED = {
    # question: what a vision model is shown, as texts and numbers of images; what a reasoner reads
    "How many?": ([0, 1, "How many?"], "How many?"),
    "How many? <image> <image>": (["How many? ", 0, 1], "How many?"),
    "Look at <image>\nand <image>": (["Look at ", 0, "and ", 1], "Look at image 1\nand image 2"),
    "<image>\n<image>\nHow many?": ([0, 1, "How many?"], "How many?"),
    "First <image>, then <image>: which?": (["First ", 0, ", then ", 1, ": which?"], "First image 1, then image 2: which?"),
    "Compare <image 2> with <image 1>.": (["Compare ", 1, " with ", 0, "."], "Compare image 2 with image 1."),
    "<image1><image2> How many?": ([0, 1, " How many?"], "How many?"),
    "See <image_2>. How many?": ([0, "See ", 1, ". How many?"], "See image 2. How many?"),
    "<img_b> and <img_a>?": ([0, " and ", 1, "?"], "image 1 and image 2?"),
    "<img_1> and <img_2>?": ([0, " and ", 1, "?"], "image 1 and image 2?"),
    "In <image0> and <image1>?": (["In ", 0, " and ", 1, "?"], "In image 1 and image 2?"),
    "In <|image_1|> and <|image_2|>?": (["In ", 0, " and ", 1, "?"], "In image 1 and image 2?"),
    "<image 1> or <image 1>, beside <image 2>?": (
        [0, " or ", 0, ", beside ", 1, "?"],
        "image 1 or image 1, beside image 2?",
    ),
}
MISFITS = ["<image> only one", "<image><image><image> three", "see <image 3>", "<image> and <image 2>", "<img_a> only"]


def record(question: str) -> Record:
    fields = {"id": "a", "image": ["0.png", "1.png"], "question": question, "answer": "1", "caption_id": "a/c0"}
    more = {"caption": "two squares", "trajectory_id": "a/c0/t0", "trajectory": "<think>a</think>1", "weight": 1.0}
    return Record({**fields, **more}, "f.jsonl:1")


def shown(parts: list[dict[str, Any]]) -> list[Any]:
    """Returns parts of a message as texts and numbers of images."""
    return [part["text"] if part["type"] == "text" else int(Path(part["image"]).stem) for part in parts]


@pytest.mark.parametrize("question", MARKED)
def test_every_step_shows_the_same(question: str) -> None:
    wanted, read = MARKED[question]
    row = record(question)
    without_caption = Record({name: row[name] for name in ("id", "image", "question", "answer")}, row.where)
    chats = [
        answer_request(row, "system"),
        trajectory_row(row, "full").messages,
        question_row(row, "full").messages,
        mixed_row(without_caption, "full").messages,
    ]
    assert [shown(chat[-1]["content"]) for chat in chats] == [wanted] * len(chats)
    (turn,) = reasoning_request(row, "Q: {question} C: {caption}")
    assert turn["content"] == f"Q: {read} C: two squares"


@pytest.mark.parametrize("question", MISFITS)
def test_marks_that_do_not_fit_are_an_error_of_the_item(question: str) -> None:
    for make in (lambda row: answer_request(row, ""), lambda row: trajectory_row(row, "full")):
        with pytest.raises(RecordError, match="f.jsonl:1: .* in the text, and there are 2 images"):
            make(record(question))
    assert "<im" not in reasoning_request(record(question), "{question} {caption}")[0]["content"]


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graded records with all kinds of marks, and their two images."""
    folder = tmp_path_factory.mktemp("marks")
    for number in range(2):
        Image.new("RGB", (32, 32), ("red", "blue")[number]).save(folder / f"{number}.png")
    rows = [{**record(question), "id": f"q{n}", "trajectory_id": f"q{n}/c0/t0"} for n, question in enumerate(MARKED)]
    write_lines(folder / "kept.jsonl", rows)
    return folder


def placed(text: str, images: list[str]) -> list[Any]:
    """Returns a text with placeholders and the images they stand for as texts and numbers of images."""
    left = iter(images)
    pieces = re.split("(<image>)", text)
    return [int(Path(next(left)).stem) if piece == "<image>" else piece for piece in pieces if piece]


def test_every_export_places_the_images_alike(marked: Path) -> None:
    wanted = [parts for parts, _ in MARKED.values()]
    for to in ("trl", "swift", "llamafactory", "openai-batch"):
        sophia("export", "kept.jsonl", "--to", to, *(["-m", "m"] if to == "openai-batch" else []), "-o", to, cwd=marked)
    for row, parts in zip(records_of(marked / "trl"), wanted, strict=True):
        left = iter(row["images"])
        user = next(turn for turn in row["messages"] if turn["role"] == "user")["content"]
        assert shown([part if part["type"] == "text" else {**part, "image": next(left)} for part in user]) == parts
        assert all(isinstance(turn["content"], list) for turn in row["messages"])
    for name in ("swift", "llamafactory"):
        file = marked / name if (marked / name).is_file() else next((marked / name).glob("[!d]*.json*"))
        for row, parts in zip(records_of(file), wanted, strict=True):
            user = next(turn for turn in row["messages"] if turn["role"] == "user")["content"]
            assert placed(user, row["images"]) == parts
    for row, parts in zip(records_of(marked / "openai-batch"), wanted, strict=True):
        user = row["body"]["messages"][-1]["content"]
        assert [part["type"] for part in user] == ["text" if isinstance(part, str) else "image_url" for part in parts]


def test_tables_place_the_images_alike(marked: Path) -> None:
    wanted = [parts for parts, _ in MARKED.values()]
    for to in ("verl", "parquet"):
        sophia("export", "kept.jsonl", "--to", to, "-o", f"{to}.parquet", cwd=marked)
    sophia("export", "kept.jsonl", "--to", "datasets", "-o", "hub", cwd=marked)
    for row, parts in zip(parquet.read_table(marked / "verl.parquet").to_pylist(), wanted, strict=True):
        assert placed(row["prompt"][-1]["content"], [image["path"] for image in row["images"]]) == parts
    (part,) = (marked / "hub").rglob("*.parquet")
    for file in (marked / "parquet.parquet", part):
        for row, parts in zip(parquet.read_table(file).to_pylist(), wanted, strict=True):
            left = iter(row["images"])
            user = next(turn for turn in row["messages"] if turn["role"] == "user")["content"]
            turns = [piece if piece["type"] == "text" else {**piece, "image": next(left)["path"]} for piece in user]
            assert shown(turns) == parts


def test_preference_pairs_place_the_images_alike(marked: Path) -> None:
    rows = []
    for n, question in enumerate(MARKED):
        for t, reward in ((0, 1.0), (1, 0.0)):
            name = {"id": f"q{n}", "caption_id": f"q{n}/c0", "trajectory_id": f"q{n}/c0/t{t}", "trajectory_count": 2}
            graded = {"reward": reward, "verdict": "correct" if reward else "wrong", "trajectory_tokens": 5}
            row = {key: value for key, value in record(question).items() if key != "weight"}
            rows.append({**row, **name, **graded, "finish_reason": "stop", "reason_model": "m"})
    write_lines(marked / "graded.jsonl", rows)
    options = ["--to", "trl-preference", "--alpha", "0.4", "-o", "pairs.jsonl"]
    sophia("export", "graded.jsonl", *options, cwd=marked)
    for row, (parts, _) in zip(records_of(marked / "pairs.jsonl"), MARKED.values(), strict=True):
        left = iter(row["images"])
        user = row["prompt"][-1]["content"]
        assert shown([part if part["type"] == "text" else {**part, "image": next(left)} for part in user]) == parts


def test_chats_with_marks_are_trained_as_they_are_meant(marked: Path) -> None:
    def chat(*turns: str) -> Record:
        roles = ("user", "assistant") * len(turns)
        messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
        return Record({"id": "a", "messages": messages, "images": ["0.png", "1.png"]}, "f.jsonl:1")

    row = mixed_row(chat("<image>Q?", "A.", "And <image>?", "B."), "full")
    assert [shown(turn["content"]) for turn in row.messages if turn["role"] == "user"] == [[0, "Q?"], ["And ", 1, "?"]]
    with pytest.raises(RecordError, match="1 images are marked in the text, and there are 2"):
        mixed_row(chat("<image>Q?", "A."), "full")


@pytest.mark.parametrize(
    ("turns", "wished"),
    [
        (["Compare <image 1> with <image 1>.", "A."], [[1, "Compare ", 0, " with ", 0, "."]]),
        (["See <image 1>.", "A.", "And <image 2>?", "B."], [["See ", 0, "."], ["And ", 1, "?"]]),
        ([[{"type": "text", "text": "<image>How many <image>?"}], "A."], [[0, "How many ", 1, "?"]]),
        ([[{"type": "image"}, {"type": "text", "text": "And <image>?"}], "A."], [[0, "And ", 1, "?"]]),
    ],
)
def test_chats_with_numbered_marks_and_parts(turns: list[Any], wished: list[list[Any]], marked: Path) -> None:
    roles = ("user", "assistant") * len(turns)
    messages = [{"role": role, "content": content} for role, content in zip(roles, turns, strict=False)]
    row = mixed_row(Record({"id": "a", "messages": messages, "images": ["0.png", "1.png"]}, "f.jsonl:1"), "full")
    assert [shown(turn["content"]) for turn in row.messages if turn["role"] == "user"] == wished


@pytest.mark.parametrize("mark", ["<img1>", "<image:1>", "<image/>", "<image >"])
def test_rarer_marks(mark: str) -> None:
    assert [part["type"] for part in place_images(f"a {mark} b", ["0.png"], "")] == ["text", "image", "text"]
    assert without_marks(f"图中{mark}是什么", 1) == "图中图片是什么"


@given(st.lists(st.text(alphabet="abc <>1.", max_size=8), min_size=1, max_size=4))
def test_the_pieces_of_a_text_and_its_images_alternate(texts: list[str]) -> None:
    images = list(range(len(texts) - 1))
    parts = place_images("<image>".join(texts), images, "")
    assert [part["image"] for part in parts if part["type"] == "image"] == images
    assert [part["text"] for part in parts if part["type"] == "text"] == [text for text in texts if text.strip()]


@pytest.mark.parametrize("text", ["<IMG_CONTEXT>", "<|image|>", "<|image_pad|>", "<img>", "<video>", "a < image > b"])
def test_what_is_no_mark_stays(text: str) -> None:
    assert without_marks(f"What is {text}?", 1) == f"What is {text}?"
    assert place_images(text, [], "") == [{"type": "text", "text": text}]


@given(st.text(alphabet="abc <>1.\n", max_size=30))
def test_a_text_without_marks_stays_as_it_is(text: str) -> None:
    assert without_marks(text, 1) == text
    assert json.dumps(place_images(text, [], "")) == json.dumps(
        [{"type": "text", "text": text.strip("\n")}] if text.strip() else []
    )
