"""Tests of the hf backend with models whose marks of thinking are special tokens, or are opened by the chat template."""

import shutil
from pathlib import Path

import pytest
from helpers.commands import records_of, sophia, write_lines

from sophia_cli.backends.hf import ModelRunner
from sophia_cli.models.aliases import resolve_model


def test_marks_that_are_special_tokens_survive_decoding() -> None:
    runner = ModelRunner(resolve_model("tiny-reasoner"))
    runner.tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "<|turn|>"]})

    def decoded(text: str) -> str:
        return runner._decode_text(runner.tokenizer(text, add_special_tokens=False)["input_ids"])

    assert decoded("[THINK]a sum[/THINK]red<|turn|>") == "<think>a sum</think>red"
    assert decoded("red<|turn|>") == "red"
    assert decoded("<think>a sum</think>red<|im_end|>") == "<think>a sum</think>red"


@pytest.mark.parametrize("opening", ["<think>", "[THINK]", "<seed:think>"])
def test_a_mark_that_the_template_opens_is_stored(opening: str, tmp_path: Path) -> None:
    shutil.copytree(resolve_model("tiny-reasoner").path, tmp_path / "m")
    template = tmp_path / "m/chat_template.jinja"
    text = template.read_text()
    assert "<|im_start|>assistant\n" in text
    template.write_text(text.replace("<|im_start|>assistant\n", f"<|im_start|>assistant\n{opening}\n"))
    row = {"id": "a", "caption_id": "a/c0", "caption_count": 1, "caption": "x", "question": "?", "answer": "1"}
    write_lines(tmp_path / "caps.jsonl", [row])
    options = ["--llm", "./m", "--backend", "hf", "-n", "2", "--max-tokens", "5"]
    for record in records_of(sophia("reason", "caps.jsonl", *options, cwd=tmp_path).stdout):
        assert record["trajectory"].startswith("<think>\n") and record["trajectory"].count("<think>") == 1
