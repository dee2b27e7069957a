"""The main module of each training process that DeepSpeed's launcher starts: `python -m sophia_cli.training.worker
OUT.tmp`.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import Any

from sophia_cli.errors import SophiaError
from sophia_cli.io.jsonl import to_line
from sophia_cli.training.distributed import DistributedContext
from sophia_cli.training.launcher import (
    CPU_VARIABLE,
    EMITTED_FILE,
    GPUS_VARIABLE,
    HardwareOptions,
    joined_context,
    note_error,
)
from sophia_cli.training.run_state import read_plan


def main(draft: Path) -> int:
    """Trains by the plan in OUT.tmp; the main rank writes its metrics to a file there."""
    world = joined_context(HardwareOptions()) or DistributedContext(cpu=CPU_VARIABLE in os.environ)
    if gpus := os.environ.get(GPUS_VARIABLE):
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus.split(",")[world.local_rank]  # before torch reads it
    try:
        from sophia_cli.training.train import train_model

        with (draft / EMITTED_FILE).open("ab") as emitted:

            def emit(fields: dict[str, Any]) -> None:
                if world.is_main:
                    emitted.write(to_line(fields))
                    emitted.flush()

            train_model(read_plan(draft), world, emit)
    except BaseException as error:  # noqa: BLE001  (the parent reads it from a file)
        traceback.print_exc()
        reason = str(error) if isinstance(error, SophiaError) else f"{type(error).__name__}: {error}"
        note_error(draft, world.rank, reason)
        return error.exit_code if isinstance(error, SophiaError) else 1
    return 0


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # DeepSpeed's teardown sometimes aborts after everything is saved
