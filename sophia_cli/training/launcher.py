"""Several training processes: how many, who starts them, what they report, and why they ended.

`sophia train` starts them with DeepSpeed's launcher, on this machine or on those of a hostfile. Under `torchrun`,
`srun` or `deepspeed` it is one of them itself. They read the plan from the folder OUT.tmp, which all machines must
see.
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
from sophia_cli.training.distributed import LOST_PATTERN, DistributedContext
from sophia_cli.training.run_state import TrainPlan, read_plan

GPUS_VARIABLE, CPU_VARIABLE = "SOPHIA_GPUS", "SOPHIA_CPU_RANKS"
"""Environment variables of the processes that we start: the GPUs of each, or that they train on CPUs."""
PLAN_KEY, READY_VALUE, FINISHED_VALUE = "sophia/plan", b"ready", b"finished"
# Not metrics.jsonl: the worker writes that in the same folder, and it outlives a resume.
EMITTED_FILE, LOG_FILE, ERRORS_FILE = "emitted.jsonl", "log.txt", "errors"
POLL_SECONDS = 0.1
# Seconds between SIGTERM and SIGKILL of training processes: time to finish a write.
GRACE_SECONDS = 10.0
# A Python traceback with its exception, where no process left a reason.
TAIL_BYTES = 4000
ERROR_SLOT_BYTES = 512
"""Bytes that each process has to store why it ended. They are allocated beforehand, because a full disk may be the
reason.
"""
KILLED_PATTERN = re.compile(r"exits with return code = -(\d+)")
RESUME_HINT = "run the command again, it resumes from the last checkpoint"
SRUN_VARIABLES = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}


@dataclass(frozen=True)
class HardwareOptions:
    """Where to train: GPUs as in CUDA_VISIBLE_DEVICES (None: all), processes on CPUs, or the machines of a hostfile."""

    gpus: list[str] | None = None
    cpu_ranks: int | None = None
    hostfile: Path | None = None


def joined_context(hardware: HardwareOptions) -> DistributedContext | None:
    """Returns this process's place among processes that another launcher started (torchrun, srun, deepspeed); None
    without one.

    Raises:
        UsageError: `--hostfile`, `--cpu-ranks` or `--gpus` ask for processes to be started.
    """
    srun = "SLURM_STEP_ID" in os.environ  # the shell of a batch script has the other variables too, but is no rank
    names = {name: os.environ.get(name) or (srun and os.environ.get(slurm)) for name, slurm in SRUN_VARIABLES.items()}
    if not all(names.values()) or int(names["WORLD_SIZE"] or 1) == 1:
        return None
    if hardware.hostfile or hardware.cpu_ranks or hardware.gpus:
        options = "--hostfile, --cpu-ranks and --gpus"
        raise UsageError(f"{options} start processes, but a launcher already did (RANK is set); omit them")
    if not os.environ.get("MASTER_ADDR"):
        raise UsageError(
            "MASTER_ADDR and MASTER_PORT are not set; set them to the first process, as in "
            "MASTER_ADDR=$(scontrol show hostnames | head -1) MASTER_PORT=29500"
        )
    # torchrun's default port.
    os.environ.setdefault("MASTER_PORT", "29500")
    os.environ.update({name: str(value) for name, value in names.items()})
    return DistributedContext(
        int(names["RANK"] or 0), int(names["WORLD_SIZE"] or 1), int(names["LOCAL_RANK"] or 0), CPU_VARIABLE in os.environ
    )


def follow_main(out: Path, world: DistributedContext) -> int:
    """What a rank other than the main one does: waits for the plan, and trains. Returns the exit code."""
    from torch.distributed import DistError

    from sophia_cli.training.rendezvous import open_store
    from sophia_cli.training.train import train_model

    usual = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the store waits in C code, where Python handlers do not run
    try:
        told = open_store(world).get(PLAN_KEY)
    except DistError:  # the main rank, which holds the store, is gone
        told = b"failed"
    signal.signal(signal.SIGTERM, usual)
    if told != READY_VALUE:
        return 0 if told == FINISHED_VALUE else 1  # the main rank has reported the reason
    train_model(read_plan(out.with_name(out.name + ".tmp")), world, lambda row: None)
    return 0


@contextlib.contextmanager
def leading_others(world: DistributedContext | None) -> Iterator[Callable[[bool], None]]:
    """Context of the main rank: the yielded function tells the other ranks whether there is a plan to train by. On an error
    they end too.
    """
    if world is None:
        yield lambda trains: None
        return
    from sophia_cli.training.rendezvous import open_store

    store = open_store(world)
    try:
        yield lambda trains: store.set(PLAN_KEY, READY_VALUE if trains else FINISHED_VALUE)
    except BaseException:
        # The other ranks wait for this key; without it they would wait until their timeout.
        store.set(PLAN_KEY, b"failed")
        raise


def check_hardware(hardware: HardwareOptions) -> None:
    """Checks the hardware options.

    Raises:
        UsageError: GPUs are requested where there are none, or two places to train are given.
    """
    if hardware.cpu_ranks and (hardware.hostfile or hardware.gpus):
        raise UsageError("--cpu-ranks trains on this machine's CPUs; omit --hostfile and --gpus")
    if hardware.gpus and hardware.hostfile:
        raise UsageError("--hostfile lists the GPUs of each machine (slots=8); omit --gpus")
    if hardware.gpus:
        import torch

        if not torch.cuda.is_available():
            raise UsageError(
                f"--gpus {','.join(hardware.gpus)}: this machine has no such GPU; omit it, or use --cpu-ranks N"
            )


def process_count(hardware: HardwareOptions) -> int:
    """Returns the number of processes: one per GPU, or as many as requested on CPUs."""
    if hardware.cpu_ranks:
        return hardware.cpu_ranks
    if hardware.hostfile:
        return sum(slots for _, slots in read_hostfile(hardware.hostfile))
    import torch

    return len(hardware.gpus or []) or max(1, torch.cuda.device_count())


def read_hostfile(file: Path) -> list[tuple[str, int]]:
    """Returns the machines of a hostfile and their GPUs: lines of `name slots=8`.

    Raises:
        UsageError: the file cannot be used.
    """
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
            raise UsageError(f"{file}:{number}: not of the form `name slots=8`; fix the line")
        found.append((words[0], int(slots)))
    if not found:
        raise UsageError(f"--hostfile {file}: lists no machine; give lines of `name slots=8`")
    return found


def launch_processes(plan: TrainPlan, hardware: HardwareOptions, count: int, emit: Callable[[dict[str, Any]], None]) -> None:
    """Starts the processes and emits their metrics until they end.

    Raises:
        SophiaError: they fail; the message says why.
    """
    emitted, log, errors = plan.work_dir / EMITTED_FILE, plan.work_dir / LOG_FILE, plan.work_dir / ERRORS_FILE
    emitted.write_bytes(b"")
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
        for line in _follow_file(emitted, process):
            emit(fields := load_json(line))
            saved = saved or "model" in fields
    finally:
        assert process.stdin
        process.stdin.close()  # the supervisor stops all processes
        code = process.wait()
    if code or not saved:  # DeepSpeed's launcher also exits 0 after a signal ended its processes
        raise SophiaError(
            _failure_reason(log.read_bytes()[-TAIL_BYTES:].decode(errors="replace"), errors) + f"; their log is {log}"
        )


def note_error(draft: Path, rank: int, reason: str) -> None:
    """Stores why this process ends, in its slot of a file that exists already."""
    line = f"{time.time():017.6f} {' '.join(reason.split())}".encode()[: ERROR_SLOT_BYTES - 1]
    with (draft / ERRORS_FILE).open("r+b") as file:
        file.seek(rank * ERROR_SLOT_BYTES)
        file.write(line)


def _failure_reason(log: str, errors: Path) -> str:
    """Returns why the processes ended: the first stored reason, or the signal that killed one, or the last line of their
    log.

    That another process is gone is not a reason: that process has stored one, or was killed.
    """
    left = sorted(line for line in errors.read_text(encoding="utf-8", errors="replace").splitlines() if line)
    reasons = [line.partition(" ")[2] for line in left]
    if own := next((reason for reason in reasons if not LOST_PATTERN.match(reason)), None):
        return own
    killed = KILLED_PATTERN.search(log)
    if reasons or killed:
        return f"a training process was killed{f' (signal {killed[1]})' if killed else ''}; {RESUME_HINT}"
    lines = [line.strip() for line in log.splitlines() if line.strip() and "[INFO]" not in line]
    return f"the training processes ended: {lines[-1] if lines else f'without a message; {RESUME_HINT}'}"


def _follow_file(file: Path, process: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    """Yields the lines of a growing file until the process has ended."""
    with file.open("rb") as stream:
        rest, ended = b"", False
        while not ended:
            ended = process.poll() is not None
            *lines, rest = (rest + stream.read()).split(b"\n")
            yield from lines
            if not lines and not ended:
                time.sleep(POLL_SECONDS)


def _launch_command(plan: TrainPlan, hardware: HardwareOptions, count: int) -> list[str]:
    """Returns the command of DeepSpeed's launcher and of each process."""
    start = ["--master_port", str(free_port("127.0.0.1"))]
    start += ["--hostfile", str(hardware.hostfile)] if hardware.hostfile else ["--hostfile", os.devnull]
    start += [] if hardware.hostfile else ["--num_gpus", str(count)]
    ranks = ["--no_local_rank", "--module", "sophia_cli.training.worker", str(plan.work_dir.absolute())]
    return [sys.executable, "-m", "deepspeed.launcher.runner", *start, *ranks]


def process_environment(hardware: HardwareOptions) -> dict[str, str]:
    """Returns the environment of the processes that we start: our package, their GPUs, or that they train on CPUs."""
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([path for path in sys.path if path])}
    gpus = ",".join(hardware.gpus) if hardware.gpus else os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if gpus and not hardware.hostfile:
        here[GPUS_VARIABLE] = gpus  # DeepSpeed's launcher overwrites CUDA_VISIBLE_DEVICES with 0, 1, …
    if hardware.cpu_ranks:
        here |= {CPU_VARIABLE: "1", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return here
