"""FILE.manifest.json: command, settings, versions, counts, tokens and seconds of the run that wrote FILE."""

import platform
import reprlib
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from sophia_cli import __version__
from sophia_cli.errors import UsageError
from sophia_cli.io.jsonl import write_json

MANIFEST_SUFFIX = ".manifest.json"
RECORDED_LIBRARIES = ("torch", "transformers", "tokenizers", "math-verify", "datasets")


class Manifest:
    """The manifest of a file: what the file was started with (`settings`), and what the run has done so far."""

    def __init__(self, file: Path, command: str, settings: dict[str, Any]):
        self.path = file.with_name(file.name + MANIFEST_SUFFIX)
        self.fields: dict[str, Any] = {
            "command": command,
            "settings": settings,
            "typed": ["sophia", *sys.argv[1:]],
            "versions": {"sophia": __version__, "python": platform.python_version(), **_library_versions()},
            "finished": False,
            "counts": {"in": 0, "out": 0, "failed": 0},
            "tokens": 0,
            "seconds": 0.0,
        }
        self.seconds_before = 0.0
        self.start = time.monotonic()

    def check_settings(self) -> None:
        """Checks that the file was started with the same command and settings.

        Raises:
            UsageError: they differ; the message names each difference.
        """
        try:
            earlier = orjson.loads(self.path.read_bytes())
            settings, command = earlier["settings"], earlier["command"]
            self.seconds_before = float(earlier["seconds"])
        except FileNotFoundError:
            file = self.path.with_name(self.path.name.removesuffix(MANIFEST_SUFFIX))
            raise UsageError(f"{file} exists without {self.path.name}; use --force to start over") from None
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{self.path} is not a manifest; use --force to start over") from None
        mine: dict[str, Any] = orjson.loads(orjson.dumps({"command": self.fields["command"], **self.fields["settings"]}))
        theirs = {"command": command, **settings}
        differing = [name for name in sorted(mine | theirs) if mine.get(name) != theirs.get(name)]
        if differing:
            short = reprlib.Repr()
            short.maxstring = short.maxother = 60  # a prompt has pages
            listed = ", ".join(
                f"{name} was {short.repr(theirs.get(name))}, is {short.repr(mine.get(name))}" for name in differing
            )
            raise UsageError(f"{self.path} was written with other settings ({listed}); use those, or --force to start over")

    def save(self, **fields: Any) -> None:
        """Updates the manifest atomically."""
        seconds = round(self.seconds_before + time.monotonic() - self.start, 3)
        self.fields.update(fields, seconds=seconds)
        write_json(self.path, self.fields)


def _library_versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in RECORDED_LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
