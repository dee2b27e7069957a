"""Tests of the dialects of thinking: every mark is recognized, rewritten to `<think>`, and kept out of answers."""

from pathlib import Path

import pytest
from helpers.chat_server import ChatServer
from helpers.commands import records_of, sophia, write_lines
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sophia_cli.models.thinking import DIALECTS, ThinkTags, answer_of, leaves_open, thinking_of, to_think_tags
from sophia_cli.verifier import verify

MARKS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<THINKING>", "</THINKING>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<reason>", "</reason>"),
    ("<think >", "</think>"),
    ('<think lang="en">', "</think>"),
    ("<analysis>", "</analysis>"),
    ("<think_fast>", "</think_fast>"),
    ("<｜think｜>", "<｜/think｜>"),
    ("<Think>", "</Think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|start_of_thinking|>", "<|end_of_thinking|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
]


@pytest.mark.parametrize("example", [dialect.example for dialect in DIALECTS])
def test_every_dialect_is_rewritten_and_split(example: str) -> None:
    text = to_think_tags(example)
    assert text.startswith("<think>") and text.count("</think>") == 1
    assert thinking_of(text).strip() == "2 + 3?" and (answer_of(text) or "").strip() == "5"
    assert (answer_of(example) or "").strip() == "5"
    assert to_think_tags(text) == text


@pytest.mark.parametrize(("opens", "closes"), MARKS)
def test_what_is_thought_is_no_answer(opens: str, closes: str) -> None:
    thought = f"{opens}Try \\boxed{{3}}. No.{closes}\nThe answer is 5."
    assert verify(thought, {"answer": "5"}).verdict == "correct"
    assert verify(thought, {"answer": "3"}).verdict == "wrong"
    assert verify(f"{opens}So \\boxed{{3}}. Hmm", {"answer": "3"}).verdict == "truncated"
    assert verify(f"{opens}So \\boxed{{3}}.{closes}I cannot tell.", {"answer": "3"}).verdict != "correct"
    # The chat template wrote the opening mark.
    assert verify(f"Try \\boxed{{3}}.\n{closes}\nThe answer is 5.", {"answer": "5"}).verdict == "correct"
    assert to_think_tags(f"a{closes}b") == "<think>\na</think>b"
    assert leaves_open(f"<|im_start|>assistant\n{opens}\n") and not leaves_open(f"{opens}\n\n{closes}\n\n")


def test_channels_before_the_final_one_are_one_thinking() -> None:
    text = (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=python<|message|>b<|end|>"
        "<|start|>assistant<|channel|>final<|message|>c<|return|>"
    )
    assert to_think_tags(text) == "<think>a\nb</think>c"


@given(st.text(alphabet="ab<>/[]\n 1=x", max_size=60))
def test_text_without_marks_stays_as_it_is(text: str) -> None:
    assert to_think_tags(text) == text and answer_of(text) == text


@given(st.text(max_size=30), st.text(max_size=30), st.sampled_from(MARKS))
def test_the_answer_is_what_follows(thought: str, answer: str, marks: tuple[str, str]) -> None:
    opens, closes = marks
    text = f"{opens}{thought}{closes}{answer}"
    assert answer_of(text) == answer and answer_of(to_think_tags(text)) == answer


def test_the_users_own_marks() -> None:
    own = ThinkTags("{{", "}}")
    assert to_think_tags("{{a}}b", own) == "<think>a</think>b" and answer_of("{{a", own) is None
    assert answer_of("{{a}}b") == "{{a}}b"


@pytest.mark.parametrize("tags", [("", "x"), ("x", "x"), (" ", "y")])
def test_marks_must_be_two(tags: tuple[str, str], tmp_path: Path) -> None:
    done = sophia("grade", "--think-tags", *tags, cwd=tmp_path, code=2)
    assert "give two different marks" in done.stderr.decode()


def captioned(folder: Path, answer: str, *options: str, code: int = 0) -> dict[str, object]:
    Image.new("RGB", (32, 32), "red").save(folder / "a.png")
    write_lines(folder / "items.jsonl", [{"id": "a", "image": "a.png", "question": "?", "answer": "1"}])
    with ChatServer(says=lambda body: answer) as server:
        options = ("-m", "m", "--base-url", server.url, "-k", "1", *options)
        (record,) = records_of(sophia("caption", "items.jsonl", *options, cwd=folder, code=code).stdout)
    return record


def test_a_caption_is_stored_without_its_thinking(tmp_path: Path) -> None:
    assert captioned(tmp_path, "<thinking>The answer is 7.</thinking>\n\nA red square.")["caption"] == "A red square."
    assert captioned(tmp_path, "((The answer is 7.))A red square.", "--think-tags", "((", "))")["caption"] == "A red square."


def test_a_caption_that_is_only_thinking_is_an_error(tmp_path: Path) -> None:
    for thought in ("[THINK]Let me see", "<think>\na\n</think>\n"):
        assert "only thinking" in str(captioned(tmp_path, thought, code=3)["error"])


def test_records_with_the_users_own_marks_are_graded(tmp_path: Path) -> None:
    row = {
        "id": "a",
        "trajectory_id": "a/c0/t0",
        "trajectory": "((Is it \\boxed{7}?",
        "finish_reason": "stop",
        "answer": "7",
    }
    write_lines(tmp_path / "raw.jsonl", [row])
    for options, verdict in ((), "correct"), (("--think-tags", "((", "))"), "truncated"):
        (graded,) = records_of(sophia("grade", "raw.jsonl", *options, cwd=tmp_path).stdout)
        assert graded["verdict"] == verdict


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>5</answer><reasoning>2 + 3</reasoning>", "<answer>5</answer>"),
        ("<think>a</think>5\n<think>Is that right? Yes.</think>\n", "5\n"),
        ("<think>2 + 3 = 5</think>", ""),
    ],
)
def test_an_answer_may_come_before_the_thinking(text: str, answer: str) -> None:
    assert answer_of(text) == answer
