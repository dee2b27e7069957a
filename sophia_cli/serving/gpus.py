"""Which GPUs exist, which replica gets which, and what holds a GPU that should be free. Asks nvidia-smi, not torch."""

import itertools
import os
import re
import subprocess

from sophia_cli.errors import UsageError

# nvidia-smi hangs when a driver is broken; without persistence mode it takes seconds to start.
NVIDIA_SMI_SECONDS = 30.0
GPU_PATTERN = re.compile(r"\d+|(?:GPU|MIG)-.+")


def visible_gpus() -> list[str]:
    """Returns the GPUs that this process may use: those in CUDA_VISIBLE_DEVICES, else all that nvidia-smi lists.

    As in CUDA, the list ends at the first entry that names no GPU, such as -1.

    Raises:
        UsageError: a GPU is listed twice.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [line.strip() for line in _query_nvidia_smi("--query-gpu=index")]
    entries = itertools.takewhile(GPU_PATTERN.fullmatch, (entry.strip() for entry in named.split(",")))
    found = list(entries)
    if len(set(found)) < len(found):
        raise UsageError(f"CUDA_VISIBLE_DEVICES {named}: lists a GPU twice")
    return found


def select_gpus(text: str) -> list[str]:
    """Returns the GPUs of `--gpus 0-3,6`: positions in the list of visible GPUs, as everywhere in CUDA.

    Where no GPU is known (another vendor's), the numbers are used as they are.

    Raises:
        UsageError: the list is malformed or names a GPU that does not exist.
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part)
        if not match:
            raise UsageError(f"--gpus {text}: not a list of GPUs; write it like 0-3 or 0,2")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    if not numbers or len(set(numbers)) < len(numbers):
        raise UsageError(f"--gpus {text}: lists no GPU, or one of them twice; write it like 0-3 or 0,2")
    known = visible_gpus()
    if not known and "CUDA_VISIBLE_DEVICES" not in os.environ:
        return [str(number) for number in numbers]
    if max(numbers) >= len(known):
        listed = f", counted from 0 ({', '.join(known)})" if known else " (CUDA_VISIBLE_DEVICES hides them)"
        raise UsageError(f"--gpus {text}: {len(known)} GPUs are visible{listed}")
    return [known[number] for number in numbers]


def split_replicas(gpus: list[str], tensor_parallel: int) -> list[list[str]]:
    """Returns the GPUs of each replica; one replica without GPUs where there are none.

    Raises:
        UsageError: the GPUs are not a multiple of `tensor_parallel`.
    """
    if not gpus:
        return [[]]
    if len(gpus) % tensor_parallel:
        raise UsageError(
            f"--tensor-parallel {tensor_parallel}: {len(gpus)} GPUs are not a multiple of it; choose others with --gpus"
        )
    return [gpus[first : first + tensor_parallel] for first in range(0, len(gpus), tensor_parallel)]


def gpu_holders(gpus: list[str]) -> list[str]:
    """Returns `GPU 2: 71200 of 81559 MiB are held by process 4711 (python -m vllm…)` for each of these GPUs in use."""
    found = []
    for line in _query_nvidia_smi("--query-gpu=index,uuid,memory.used,memory.total"):
        index, uuid, used, total = (cell.strip() for cell in line.split(","))
        if gpus and index not in gpus and uuid not in gpus:
            continue
        apps = [cells.split(",") for cells in _query_nvidia_smi("--query-compute-apps=gpu_uuid,pid,used_memory")]
        processes = [pid.strip() for owner, pid, _ in apps if owner.strip() == uuid]
        if processes:
            named = ", ".join(f"{pid} ({_process_command(pid)})" for pid in processes)
            found.append(f"GPU {index}: {used} of {total} MiB are held by process {named}")
    return found


def _process_command(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return "not visible from here"
    return words[:80] or "not visible from here"


def _query_nvidia_smi(query: str) -> list[str]:
    """Returns the lines of nvidia-smi; none where it is missing or fails."""
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line for line in done.stdout.splitlines() if line.strip()]
