"""Which GPUs there are, which replica gets which, and who holds one that should be free. Asks nvidia-smi, not torch."""

import itertools
import os
import re
import subprocess

from sophia_cli.errors import UsageError

NVIDIA_SMI_SECONDS = 30.0
GPU_PATTERN = re.compile(r"\d+|(?:GPU|MIG)-.+")


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; else all that nvidia-smi lists; maybe none.

    As CUDA reads it: the list ends at the first entry that names no GPU, such as -1. Raises UsageError for one named twice.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [line.strip() for line in _query_nvidia_smi("--query-gpu=index")]
    entries = itertools.takewhile(GPU_PATTERN.fullmatch, (entry.strip() for entry in named.split(",")))
    found = list(entries)
    if len(set(found)) < len(found):
        raise UsageError(f"CUDA_VISIBLE_DEVICES {named}: names a GPU twice")
    return found


def select_gpus(text: str) -> list[str]:
    """The GPUs that `--gpus 0-3,6` means: places in the list of visible ones, as everywhere in CUDA.

    Where nothing is known of GPUs (another vendor's), the numbers are taken as they are. Raises UsageError.
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part)
        if not match:
            raise UsageError(f"--gpus {text}: not a list of GPUs; write it as in 0-3 or 0,2")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    if not numbers or len(set(numbers)) < len(numbers):
        raise UsageError(f"--gpus {text}: names no GPU, or one of them twice; write it as in 0-3 or 0,2")
    known = visible_gpus()
    if not known and "CUDA_VISIBLE_DEVICES" not in os.environ:
        return [str(number) for number in numbers]
    if max(numbers) >= len(known):
        listed = f", counted from 0 ({', '.join(known)})" if known else " (CUDA_VISIBLE_DEVICES hides them)"
        raise UsageError(f"--gpus {text}: there are {len(known)} GPUs to be seen{listed}")
    return [known[number] for number in numbers]


def split_replicas(gpus: list[str], tensor_parallel: int) -> list[list[str]]:
    """The GPUs of each replica; one replica without any where there are none. Raises UsageError when they do not divide."""
    if not gpus:
        return [[]]
    if len(gpus) % tensor_parallel:
        raise UsageError(f"--tensor-parallel {tensor_parallel}: does not divide {len(gpus)} GPUs; name others with --gpus")
    return [gpus[first : first + tensor_parallel] for first in range(0, len(gpus), tensor_parallel)]


def gpu_holders(gpus: list[str]) -> list[str]:
    """`GPU 2: 71200 of 81559 MiB are held by process 4711 (python -m vllm…)`, for each of these GPUs that is held."""
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
    """The lines that nvidia-smi answers; none where it is missing or fails."""
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line for line in done.stdout.splitlines() if line.strip()]
