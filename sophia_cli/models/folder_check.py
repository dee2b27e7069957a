"""Faults of a model's files, each in one line that names the file and the remedy.

Loaders raise whatever their parsers meet (`header too large`, `cannot reshape tensor of 0 elements`), so the usual faults
are looked for before a model is loaded. Hub ids are not checked: the hub's cache holds whole files.
"""

from pathlib import Path
from typing import Any

from sophia_cli.errors import SophiaError
from sophia_cli.io.images import LFS_MARK
from sophia_cli.io.jsonl import load_json

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "*.tiktoken",
    "tekken.json",
)
PROBES = ("What is the sum of the numbers?", [{"type": "text", "text": "What is the sum of the numbers?"}])
"""Contents of a message; some templates take texts only, others parts only."""


def check_model_files(folder: str) -> None:
    """Checks the files of a local folder.

    Raises:
        SophiaError: a file is a git-lfs pointer, or a file of weights or JSON is damaged.
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
    if file.suffix == ".json":
        try:
            load_json(file.read_bytes())
        except ValueError as error:
            raise SophiaError(f"{file}: damaged or cut off ({error}); download or save it again") from None


def load_weights(auto: Any, name: str, path: str, **options: Any) -> Any:
    """Returns a model of the class `auto` with all its weights.

    Loaders fill in random numbers for weights that the files lack, and only log it.

    Raises:
        SophiaError: weights are missing or not finite.
    """
    model, found = auto.from_pretrained(path, output_loading_info=True, **options)
    missing = sorted(found["missing_keys"])
    if missing:
        raise SophiaError(
            f"{name}: {len(missing)} weights are missing in its files ({missing[0]}, …); download it again, or check that the "  # noqa: E501
            "files belong to this config.json"
        )
    if not model.get_input_embeddings().weight.isfinite().all():
        raise SophiaError(f"{name}: its weights are not finite; it was saved by a run that diverged")
    return model


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
        SophiaError: it has no chat template, or one that renders none of `PROBES`.
    """
    if not tokenizer.chat_template:
        raise SophiaError(f"{name}: has no chat template; add chat_template.jinja of the instruct model to its folder")
    faults = []
    for content in PROBES:
        try:
            tokenizer.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
        except Exception as error:  # noqa: BLE001  (a template runs arbitrary expressions)
            faults.append(error)
    if len(faults) == len(PROBES):
        line = getattr(faults[0], "lineno", None)
        place = f" in line {line}" if line else ""
        raise SophiaError(f"{name}: the chat template is broken{place} ({faults[0]}); fix chat_template.jinja")


def load_error(name: str, error: Exception) -> SophiaError:
    """Returns what a failed load means to the user."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if type(error).__name__ == "OutOfMemoryError":
        return SophiaError(f"{name}: does not fit into the GPU's memory ({reason}); use more GPUs or a smaller model")
    if isinstance(error, ImportError):
        return SophiaError(f"{name}: needs a package that is not installed ({reason}); install it with pip")
    return SophiaError(f"{name}: cannot be loaded ({reason}); check its files, its name, the network or HF_HUB_OFFLINE")
