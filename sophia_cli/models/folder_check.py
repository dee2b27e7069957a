"""Faults of a model's files, each in one line that names the file and the remedy.

Loaders raise whatever their parsers meet (`header too large`, `cannot reshape tensor of 0 elements`), so the usual faults
are looked for before a model is loaded. Hub ids are not checked: the hub's cache holds whole files.
"""

from pathlib import Path
from typing import Any

from sophia_cli.errors import SophiaError
from sophia_cli.io.images import LFS_MARK

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "*.tiktoken",
    "tekken.json",
)
PROBE = [{"role": "user", "content": "?"}]


def check_model_files(folder: str) -> None:
    """Checks the files of a local folder.

    Raises:
        SophiaError: a file is a git-lfs pointer, or a file of weights is damaged.
    """
    for file in sorted(Path(folder).glob("*")):
        if file.suffix in (".safetensors", ".bin", ".json", ".model", ".jinja") and file.is_file():
            _check_file(file)


def _check_file(file: Path) -> None:
    with file.open("rb") as stream:
        if stream.read(len(LFS_MARK)) == LFS_MARK:
            raise SophiaError(f"{file}: a git-lfs pointer, not the file; run `git lfs pull` in {file.parent}")
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise SophiaError(f"{file}: damaged or cut off ({error}); download or save it again") from None


def check_tokenizer_files(folder: str) -> None:
    """Checks that a local folder has a tokenizer.

    Raises:
        SophiaError: it has none.
    """
    path = Path(folder)
    if path.is_dir() and not any(True for pattern in TOKENIZER_FILES for _ in path.glob(pattern)):
        raise SophiaError(f"{folder}: has no tokenizer; copy tokenizer.json and tokenizer_config.json from the base model")


def check_chat_template(name: str, tokenizer: Any) -> None:
    """Checks that a tokenizer can render a chat.

    Raises:
        SophiaError: it has no chat template, or a broken one.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise SophiaError(f"{name}: has no chat template; add chat_template.jinja of the instruct model to its folder")
    try:
        tokenizer.apply_chat_template(PROBE, add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        place = f" in line {line}" if line else ""
        raise SophiaError(f"{name}: the chat template is broken{place} ({error}); fix chat_template.jinja") from None


def load_error(name: str, error: Exception) -> SophiaError:
    """Returns what a failed load means to the user."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if type(error).__name__ == "OutOfMemoryError":
        return SophiaError(f"{name}: does not fit into the GPU's memory ({reason}); use more GPUs or a smaller model")
    return SophiaError(f"{name}: cannot be loaded ({reason}); check its files, its name, the network or HF_HUB_OFFLINE")
