"""The prompts, one text file each, and the functions that fill them in.

`full/` holds the prompts for real models, `short/` those that the embedded models were trained with. A model's folder
chooses (`sophia.json`). The wording is ours; what it asks for is the paper's (method.md, steps 1, 2 and 5).
`image_marks.py` reads where a question has its images.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sophia_cli.errors import UsageError
from sophia_cli.records import OPTION_LETTERS, choices_of, need_text

PROMPT_DIR = Path(__file__).parent


def load_prompt(name: str, style: str = "full") -> str:
    """Returns the prompt `name` (caption, reason, slow_thinking, …) in the given style, without the final line break."""
    return (PROMPT_DIR / style / f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")


def chosen_prompt(file: Path | None, name: str, style: str, blanks: tuple[str, ...] = ()) -> str:
    """Returns the user's prompt file if given, else ours.

    Raises:
        UsageError: the file cannot be read, or lacks a placeholder of `blanks`.
    """
    if file is None:
        return load_prompt(name, style)
    try:
        text = file.read_text(encoding="utf-8").rstrip("\n")
        missing = [f"{{{blank}}}" for blank in blanks if f"{{{blank}}}" not in text]
        if missing:
            raise UsageError(f"--prompt {file}: does not contain {' and '.join(missing)}; add the placeholder")
        return text
    except (OSError, UnicodeDecodeError) as error:
        cause = getattr(error, "strerror", None) or "not UTF-8"
        raise UsageError(f"--prompt {file}: cannot be read ({cause}); give a text file") from None


def fill_template(template: str, values: Mapping[str, str]) -> str:
    """Replaces each `{name}` that is a key of `values`. Other braces stay, and inserted text is not searched again."""
    pattern = "|".join(re.escape(f"{{{name}}}") for name in values)
    return re.sub(pattern, lambda match: values[match.group()[1:-1]], template)


def question_text(item: Mapping[str, Any]) -> str:
    """Returns what a model is asked: the benchmark's hint if any, the question, and the lettered options.

    Options are omitted when the question or its image shows them already; `choices_shown` says so where it is known.

    Raises:
        RecordError: a field is missing or not a text.
    """
    lines = [need_text(item, "hint", "omit it or make it a string")] if item.get("hint") else []
    lines.append(need_text(item, "question", "the source must give it"))
    choices = choices_of(item)
    shown = item.get("choices_shown")
    if not isinstance(shown, bool):
        shown = all(
            re.search(rf"(^|[\s(（]){re.escape(letter)}[.):：．）]", item["question"])
            for letter in OPTION_LETTERS[: len(choices)]
        )
    return "\n".join(lines if shown else [*lines, *lettered_choices(choices)])


def lettered_choices(choices: list[str]) -> list[str]:
    """Returns the options as they are written: `A. 12`."""
    return [f"{letter}. {choice}" for letter, choice in zip(OPTION_LETTERS, choices, strict=False)]
