"""Short names of models, and the defaults that a model's own folder may hold.

A user's file (`$SOPHIA_ALIASES`, else `~/.config/sophia/aliases.toml`) adds aliases or overrides them:

    [my-vlm]
    target = "/models/my-vlm"
    sees = true
"""

import difflib
import hashlib
import json
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sophia_cli.errors import UsageError

EMBEDDED_DIR = Path(__file__).parent.parent / "world" / "models"
DEFAULTS_FILE = "sophia.json"


@dataclass(frozen=True)
class Alias:
    """A hub id or folder, whether the model sees images, and what it needs to run."""

    target: str
    sees: bool
    needs: str


ALIASES = {
    "tiny-vlm": Alias(str(EMBEDDED_DIR / "tiny-vlm"), True, "embedded; any CPU"),
    "tiny-reasoner": Alias(str(EMBEDDED_DIR / "tiny-reasoner"), False, "embedded; any CPU"),
    "internvl2.5-8b": Alias("OpenGVLab/InternVL2_5-8B-MPO-hf", True, "one GPU of 24 GB"),
    "internvl2.5-38b": Alias("OpenGVLab/InternVL2_5-38B-MPO-hf", True, "two GPUs of 80 GB"),
    "internvl3-8b": Alias("OpenGVLab/InternVL3-8B-hf", True, "one GPU of 24 GB"),
    "internvl3-38b": Alias("OpenGVLab/InternVL3-38B-hf", True, "two GPUs of 80 GB"),
    "qwen2.5-vl-7b": Alias("Qwen/Qwen2.5-VL-7B-Instruct", True, "one GPU of 24 GB"),
    "qwen2.5-vl-72b": Alias("Qwen/Qwen2.5-VL-72B-Instruct", True, "four GPUs of 80 GB"),
    "qwen3-vl-8b": Alias("Qwen/Qwen3-VL-8B-Instruct", True, "one GPU of 24 GB"),
    "qwq": Alias("Qwen/QwQ-32B", False, "one GPU of 80 GB"),
    "deepseek-r1": Alias("deepseek-ai/DeepSeek-R1", False, "eight GPUs of 141 GB"),
    "qwen3-32b": Alias("Qwen/Qwen3-32B", False, "one GPU of 80 GB"),
}


@dataclass(frozen=True)
class ModelRef:
    """A model as the user named it: where its files are, and the defaults in its folder (`sophia.json`)."""

    name: str
    path: str
    defaults: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt_style(self) -> str:
        """The style of prompts that the model was trained with: a folder of `prompts/`."""
        return str(self.defaults.get("prompts", "full"))

    @property
    def identity(self) -> dict[str, str | None]:
        """What identifies the model in manifests: its name, its target, and for a folder a fingerprint of its files.

        The fingerprint covers each file's name, size, and first and last megabyte. A model that was trained again
        under the same name has another one.
        """
        folder = Path(self.path)
        if not folder.is_dir():
            return {"model": self.name, "path": self.path, "fingerprint": None}
        digest = hashlib.sha256()
        for file in sorted(folder.iterdir()):
            if file.is_file() and file.name != "README.md":
                digest.update(f"{file.name}:{file.stat().st_size}:".encode())
                digest.update(_file_ends(file))
        return {"model": self.name, "path": None, "fingerprint": digest.hexdigest()[:16]}

    def default(self, step: str, option: str, otherwise: Any) -> Any:
        """Returns the model's own default of a step's option, or `otherwise`."""
        return self.defaults.get(step, {}).get(option, otherwise)


def _file_ends(file: Path, size: int = 1 << 20) -> bytes:
    """Returns the first and the last megabyte of a file."""
    with file.open("rb") as stream:
        first = stream.read(size)
        stream.seek(max(size, file.stat().st_size - size))
        return first + stream.read(size)


def user_alias_file() -> Path:
    """Returns where the user's aliases are looked for."""
    # Without a home folder, `~` stays in the path, which then does not exist.
    config = Path(os.path.expanduser(os.environ.get("XDG_CONFIG_HOME") or "~/.config"))
    return Path(os.environ.get("SOPHIA_ALIASES") or config / "sophia" / "aliases.toml")


def load_aliases() -> dict[str, Alias]:
    """Returns all aliases; the user's own override the built-in ones.

    Raises:
        UsageError: the user's file cannot be read.
    """
    path = user_alias_file()
    try:
        if not path.exists():
            return ALIASES
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        own = {
            name: Alias(str(table["target"]), bool(table.get("sees", True)), table.get("needs", "your own"))
            for name, table in tables.items()
        }
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: cannot be read ({error!r}); each alias is a table with `target`") from None
    return ALIASES | own


def resolve_model(name: str) -> ModelRef:
    """Returns the model that an alias, a folder or a hub id (`org/name`) stands for.

    Raises:
        UsageError: it is none of these.
    """
    known = load_aliases()
    path = known[name].target if name in known else name
    folder = Path(path).expanduser()
    if folder.is_dir():
        if (folder / "adapter_config.json").exists():
            remedy = "train with --merge-lora, or use the folder with peft or your own vLLM (--lora-modules)"
            raise UsageError(f"{name}: the folder contains LoRA adapters, not a model; {remedy}")
        if not (folder / "config.json").exists():
            raise UsageError(f"{name}: the folder has no config.json; give the folder of a saved model")
        return ModelRef(name, str(folder), _load_defaults(folder / DEFAULTS_FILE))
    if name not in known and "/" in path and folder.parent.is_dir():  # `runs/nope`, and not an organization of the hub
        raise UsageError(f"{name}: no such folder; {folder.parent} is here and has no {folder.name}")
    hub_id = path.count("/") == 1 and not path.startswith((".", "/", "~"))
    if name in known or hub_id:
        return ModelRef(name, path)
    close = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    raise UsageError(f"{name}: no such model; {guess}`sophia models` lists the aliases, or give a folder or a hub id")


def _load_defaults(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        defaults = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); fix or delete it") from None
    if not isinstance(defaults, dict):
        raise UsageError(f"{path}: not a JSON object; fix or delete it")
    return defaults
