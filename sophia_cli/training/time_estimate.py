"""Estimates how long a run takes: its FLOPs, and the measured matmul speed of this machine."""

import time
from multiprocessing.connection import Connection

import torch
from transformers import AutoConfig

from sophia_cli.runtime.worker_pool import WorkerDied, WorkerProcess, WorkerTimeout
from sophia_cli.training.run_state import TrainPlan, update_batches

# Large enough to reach the device's peak speed, and at most a few seconds.
MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}
REPEATS = {"cpu": 2, "cuda": 20}
EXPECTED_UTILIZATION = 0.4
"""The share of plain matmul speed that training usually reaches."""
# The estimate is only shown; a machine where it hangs must not delay the run.
TIMEOUT_SECONDS = 60.0


def estimated_seconds(plan: TrainPlan, weights: int, trained: int, processes: int, cuda: bool) -> float | None:
    """Returns the seconds of the whole run at `EXPECTED_UTILIZATION` of this machine's speed; None where it cannot be
    measured.

    FLOPs of a row of T tokens: 2 N T forward, 2 N T backward, 2 N_trained T for the weight gradients, 2 N T for
    recomputed activations (GPUs), and 12 L h T² for attention.
    """
    text = AutoConfig.from_pretrained(plan.model.path).get_text_config()
    each = (6 if cuda else 4) * weights + 2 * trained
    lengths = [plan.rows[row].tokens for batch in update_batches(plan) for row in batch]
    work = sum(each * tokens + 12 * text.num_hidden_layers * text.hidden_size * tokens**2 for tokens in lengths)
    speed = _measure_in_child() if cuda else matmul_flops("cpu")
    return work / (EXPECTED_UTILIZATION * speed * processes) if speed else None


def matmul_flops(device: str) -> float:
    """Returns FLOP/s of a square matrix product: bf16 on GPUs, fp32 on CPUs."""
    one = torch.randn(
        MATRIX_SIDE[device], MATRIX_SIDE[device], device=device, dtype=torch.bfloat16 if device == "cuda" else torch.float32
    )
    best = float("inf")
    for _ in range(REPEATS[device]):
        began = time.perf_counter()
        (one @ one)[0, 0].item()  # synchronizes with the GPU
        best = min(best, time.perf_counter() - began)
    return 2.0 * MATRIX_SIDE[device] ** 3 / best


def _measure_in_child() -> float | None:
    """Measures a GPU in a child process, because the parent would hold GPU memory for the whole run."""
    child = WorkerProcess(_send_speed)
    try:
        child.send("cuda")
        return float(child.receive(TIMEOUT_SECONDS))
    except (WorkerDied, WorkerTimeout):
        return None
    finally:
        child.kill()


def _send_speed(pipe: Connection) -> None:
    pipe.send("ready")
    pipe.send(matmul_flops(pipe.recv()))
    pipe.recv()
