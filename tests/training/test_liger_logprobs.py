"""Tests of Liger's fused kernel, interpreted by Triton on the CPU: log-probabilities and gradients equal ours, token by
token.

`make test-kernels` installs both and runs them. Its speed on a GPU is not tested here.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PYTHON = ROOT / ".venv-kernels" / "bin" / "python"
COMPARED = """
import json, sys
import torch
from sophia_cli.training.collator import IGNORE_INDEX
from sophia_cli.training.logprobs import log_probabilities
from sophia_cli.training.config import has_liger

rows, width, words, dtype = json.loads(sys.argv[1])
draw = torch.Generator().manual_seed(rows)
hidden = torch.randn(2, rows, width, generator=draw).to(getattr(torch, dtype)).requires_grad_()
weight = torch.randn(words, width, generator=draw).to(getattr(torch, dtype)).requires_grad_()
labels = torch.randint(0, words, (2, rows), generator=draw)
labels[torch.rand(2, rows, generator=draw) < 0.4] = IGNORE_INDEX
upstream = torch.randn(2, rows - 1, generator=draw)  # weights, ratios and masks, as an objective has them
found = []
for fused in (False, True):
    logps = log_probabilities(hidden, weight, labels, fused)
    found.append([logps.detach(), *torch.autograd.grad((logps * upstream).sum(), (hidden, weight))])
apart = [((ours - theirs).norm() / ours.norm()).item() for ours, theirs in zip(*found)]
moved = [ours.norm().item() for ours in found[0]]
print(json.dumps({"liger": has_liger(), "apart": apart, "moved": moved}))
"""

pytestmark = pytest.mark.kernels


@pytest.mark.parametrize(
    ("shape", "bound"),
    [((9, 16, 50, "float32"), 1e-5), ((33, 64, 1000, "float32"), 1e-5), ((20, 32, 300, "bfloat16"), 2e-2)],
    ids=["small", "several chunks", "half precision"],
)
def test_the_kernel_says_what_blocks_of_pytorch_say(shape: tuple[int, int, int, str], bound: float) -> None:
    assert PYTHON.exists(), "make test-kernels installs it"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [PYTHON, "-c", COMPARED, json.dumps(shape)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["liger"] and all(norm > 0 for norm in told["moved"])
    assert all(apart < bound for apart in told["apart"]), told
