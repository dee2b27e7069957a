"""Runs a command: every exception becomes one line on stderr and an exit code.

Exit codes (contract.md): 0 all done; 1 failed; 2 wrong usage or unreadable input; 3 finished, but some records carry
`error`; 130 interrupted. A closed pipe ends quietly with 0.
"""

import traceback
from collections.abc import Callable

from sophia_cli.errors import FAILED, INTERRUPTED, SophiaError
from sophia_cli.runtime import signals
from sophia_cli.runtime.progress import log_line, set_quiet


def run(work: Callable[[], int], debug: bool = False) -> int:
    """Runs a command and returns its exit code. An error becomes one line on stderr; a traceback only with `debug`."""
    signals.install_handlers()
    set_quiet(False)
    try:
        return work()
    except KeyboardInterrupt:
        log_line("interrupted; finished records are kept, run the command again to resume")
        return INTERRUPTED
    except BrokenPipeError:
        return INTERRUPTED if signals.received else 0
    except Exception as error:  # noqa: BLE001  (the last handler of every command)
        if debug:
            traceback.print_exc()
        log_line(f"sophia: {_one_line(error)}")
        return error.exit_code if isinstance(error, SophiaError) else FAILED


EXTRAS = {
    **dict.fromkeys(("datasets", "pyarrow"), "data"),
    **dict.fromkeys(("torch", "transformers"), "hf"),
    **dict.fromkeys(("accelerate", "deepspeed", "matplotlib", "peft", "trl"), "train"),
    "imagehash": "decontaminate",
    "liger_kernel": "gpu",
}
"""The extra of pyproject.toml that brings a package. `sophia-cli` alone brings what servers, grading and selection need."""


def _one_line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and (extra := EXTRAS.get(str(error.name).partition(".")[0])):
        return f"this command needs {error.name}: pip install 'sophia-cli[{extra}]'"
    if isinstance(error, SophiaError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}; check the path, its permissions and the space on the disk"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]} (--debug shows where)"
