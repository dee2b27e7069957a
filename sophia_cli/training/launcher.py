"""Several processes that train together: how many, who starts them, and what they tell.

`sophia train` starts them through DeepSpeed's launcher, on this machine or on those of a hostfile; under `torchrun`, `srun`
or `deepspeed` it is itself one of them. They read the plan from the draft folder, which all machines must see.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sophia_cli.errors import SophiaError, UsageError
from sophia_cli.io.jsonl import load_json
from sophia_cli.serving import supervisor
from sophia_cli.serving.ports import free_port
from sophia_cli.training.distributed import DistributedContext
from sophia_cli.training.run_state import TrainPlan, read_plan

GPUS_VARIABLE, CPU_VARIABLE = "SOPHIA_GPUS", "SOPHIA_CPU_RANKS"
"""What the processes that we start find in their environment: which GPU is whose; that they train on CPUs."""
PLAN_KEY, READY_VALUE = "sophia/plan", b"ready"
METRICS_FILE, LOG_FILE, ERRORS_FILE = "told.jsonl", "log.txt", "errors"
POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0
TAIL_BYTES = 4000
ERROR_SLOT_BYTES = 512
"""Bytes that each process has for the reason of its end, taken from the disk beforehand: a full one may be the reason."""
KILLED_PATTERN = re.compile(r"exits with return code = -(\d+)")
LOST_PATTERN = re.compile(
    r"(RuntimeError|Dist\w*Error): .*"
    r"(connection (closed|reset|was likely closed)|(read|write) error|broken pipe|remote process exited|ncclRemoteError)",
    re.IGNORECASE,
)
"""How gloo, NCCL and the store say that another process is gone."""
RESUME_HINT = "type the command again, it goes on from its last checkpoint"
SRUN_VARIABLES = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}


@dataclass(frozen=True)
class HardwareOptions:
    """On what to train: GPUs as CUDA_VISIBLE_DEVICES names them (None: all), processes on CPUs, or a file of machines."""

    gpus: list[str] | None = None
    cpu_ranks: int | None = None
    hostfile: Path | None = None


def joined_context(hardware: HardwareOptions) -> DistributedContext | None:
    """This process among those that somebody else has started (torchrun, srun, deepspeed); None when nobody has.

    Raises UsageError when `--hostfile`, `--cpu-ranks` or `--gpus` ask for others to be started.
    """
    srun = "SLURM_STEP_ID" in os.environ  # a batch script's own shell has the other names, too, and is no rank
    names = {name: os.environ.get(name) or (srun and os.environ.get(slurm)) for name, slurm in SRUN_VARIABLES.items()}
    if not all(names.values()) or int(names["WORLD_SIZE"] or 1) == 1:
        return None
    if hardware.hostfile or hardware.cpu_ranks or hardware.gpus:
        options = "--hostfile, --cpu-ranks and --gpus"
        raise UsageError(f"{options} say which processes to start, and here somebody has (RANK is set); leave them out")
    if not os.environ.get("MASTER_ADDR"):
        raise UsageError(
            "MASTER_ADDR and MASTER_PORT are not set: say where the first process is, as in "
            "MASTER_ADDR=$(scontrol show hostnames | head -1) MASTER_PORT=29500"
        )
    os.environ.setdefault("MASTER_PORT", "29500")
    os.environ.update({name: str(value) for name, value in names.items()})
    return DistributedContext(
        int(names["RANK"] or 0), int(names["WORLD_SIZE"] or 1), int(names["LOCAL_RANK"] or 0), CPU_VARIABLE in os.environ
    )


def follow_main(out: Path, world: DistributedContext) -> int:
    """What a process that does not lead does: waits for the plan, and trains. Returns the exit code."""
    from torch.distributed import DistError

    from sophia_cli.training.rendezvous import open_store
    from sophia_cli.training.train import train_model

    usual = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # while it waits in a library that hears no Python
    try:
        ready = open_store(world).get(PLAN_KEY) == READY_VALUE
    except DistError:  # the one that leads, and holds what all write to, is gone
        ready = False
    signal.signal(signal.SIGTERM, usual)
    if not ready:
        return 1  # the one that leads has said why
    train_model(read_plan(out.with_name(out.name + ".tmp")), world, lambda told: None)
    return 0


@contextlib.contextmanager
def leading_others(world: DistributedContext | None) -> Iterator[Callable[[], None]]:
    """For the process that leads among others: what it yields tells them that the plan is there; if it fails, they end."""
    if world is None:
        yield lambda: None
        return
    from sophia_cli.training.rendezvous import open_store

    store = open_store(world)
    try:
        yield lambda: store.set(PLAN_KEY, READY_VALUE)
    except BaseException:
        store.set(PLAN_KEY, b"failed")
        raise


def check_hardware(hardware: HardwareOptions) -> None:
    """Raises UsageError for GPUs that are asked for on a machine without any, and for two places to train on at once."""
    if hardware.cpu_ranks and (hardware.hostfile or hardware.gpus):
        raise UsageError("--cpu-ranks trains on this machine's CPUs; leave --hostfile and --gpus out")
    if hardware.gpus and hardware.hostfile:
        raise UsageError("--hostfile says how many GPUs each machine gives (slots=8); leave --gpus out")
    if hardware.gpus:
        import torch

        if not torch.cuda.is_available():
            raise UsageError(f"--gpus {','.join(hardware.gpus)}: no such GPU is here; leave it out, or give --cpu-ranks N")


def process_count(hardware: HardwareOptions) -> int:
    """How many are to train: one a GPU, or as many as asked for on CPUs."""
    if hardware.cpu_ranks:
        return hardware.cpu_ranks
    if hardware.hostfile:
        return sum(slots for _, slots in read_hostfile(hardware.hostfile))
    import torch

    return len(hardware.gpus or []) or max(1, torch.cuda.device_count())


def read_hostfile(file: Path) -> list[tuple[str, int]]:
    """The machines of a hostfile and how many GPUs each has: lines of `name slots=8`. Raises UsageError."""
    found = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UsageError(f"--hostfile {file}: cannot be read ({reason}); give lines of `name slots=8`") from None
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        slots = words[1].removeprefix("slots=") if len(words) == 2 and words[1].startswith("slots=") else ""
        if not slots.isdigit() or int(slots) < 1:
            raise UsageError(f"{file}:{number}: not `name slots=8`; mend the line")
        found.append((words[0], int(slots)))
    if not found:
        raise UsageError(f"--hostfile {file}: names no machine; give lines of `name slots=8`")
    return found


def launch_processes(plan: TrainPlan, hardware: HardwareOptions, count: int, emit: Callable[[dict[str, Any]], None]) -> None:
    """Starts the processes and hands on what they tell until they end. Raises SophiaError when they do not end well."""
    told, log, errors = plan.work_dir / METRICS_FILE, plan.work_dir / LOG_FILE, plan.work_dir / ERRORS_FILE
    told.write_bytes(b"")
    errors.write_bytes(b"\n" * ERROR_SLOT_BYTES * count)
    command = [
        sys.executable,
        "-I",
        str(Path(supervisor.__file__)),
        str(GRACE_SECONDS),
        *_launch_command(plan, hardware, count),
    ]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=process_environment(hardware),
            start_new_session=True,
        )
    saved = False
    try:
        for line in _follow_file(told, process):
            emit(fields := load_json(line))
            saved = saved or "model" in fields
    finally:
        assert process.stdin
        process.stdin.close()  # the guard ends them all
        code = process.wait()
    if code or not saved:  # DeepSpeed's launcher calls it well, too, when a signal has ended what it started
        raise SophiaError(
            _failure_reason(log.read_bytes()[-TAIL_BYTES:].decode(errors="replace"), errors) + f"; their log is {log}"
        )


def note_error(draft: Path, rank: int, reason: str) -> None:
    """Leaves for whoever started the processes why this one ends, in its own room of a file that is there already."""
    line = f"{time.time():017.6f} {' '.join(reason.split())}".encode()[: ERROR_SLOT_BYTES - 1]
    with (draft / ERRORS_FILE).open("r+b") as file:
        file.seek(rank * ERROR_SLOT_BYTES)
        file.write(line)


def _failure_reason(log: str, errors: Path) -> str:
    """Why processes ended: the first reason that one of them left, or that one was killed, or the last line of their log.

    That another is gone is no reason: whoever is gone has left one, or was killed.
    """
    left = sorted(line for line in errors.read_text(encoding="utf-8", errors="replace").splitlines() if line)
    reasons = [line.partition(" ")[2] for line in left]
    if own := next((reason for reason in reasons if not LOST_PATTERN.match(reason)), None):
        return own
    killed = KILLED_PATTERN.search(log)
    if reasons or killed:
        return f"a training process was killed{f' (signal {killed[1]})' if killed else ''}; {RESUME_HINT}"
    lines = [line.strip() for line in log.splitlines() if line.strip() and "[INFO]" not in line]
    return f"the training processes ended: {lines[-1] if lines else f'they say nothing; {RESUME_HINT}'}"


def _follow_file(file: Path, process: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    """The lines of a growing file, until the process has ended."""
    with file.open("rb") as stream:
        rest, ended = b"", False
        while not ended:
            ended = process.poll() is not None
            *lines, rest = (rest + stream.read()).split(b"\n")
            yield from lines
            if not lines and not ended:
                time.sleep(POLL_SECONDS)


def _launch_command(plan: TrainPlan, hardware: HardwareOptions, count: int) -> list[str]:
    """DeepSpeed's launcher, and what each process runs."""
    start = ["--master_port", str(free_port("127.0.0.1"))]
    start += ["--hostfile", str(hardware.hostfile)] if hardware.hostfile else ["--hostfile", os.devnull]
    start += [] if hardware.hostfile else ["--num_gpus", str(count)]
    ranks = ["--no_local_rank", "--module", "sophia_cli.training.worker", str(plan.work_dir.absolute())]
    return [sys.executable, "-m", "deepspeed.launcher.runner", *start, *ranks]


def process_environment(hardware: HardwareOptions) -> dict[str, str]:
    """What the processes that we start find: our packages, their GPUs, or that they train on CPUs."""
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([path for path in sys.path if path])}
    gpus = ",".join(hardware.gpus) if hardware.gpus else os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if gpus and not hardware.hostfile:
        here[GPUS_VARIABLE] = gpus  # DeepSpeed's launcher overwrites CUDA_VISIBLE_DEVICES by 0, 1, …
    if hardware.cpu_ranks:
        here |= {CPU_VARIABLE: "1", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return here
