# One place for everything one does with a checkout. `make quickstart` and `make test` work on a fresh machine with
# Python 3.11+, git and make.

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: quickstart install install-dev test test-fast test-long test-kernels test-vllm lint types bench bench-verifier bench-client bench-early-stop bench-prefill bench-propagate bench-decontaminate bench-train bench-memory bench-harnesses tiny clean

quickstart: install
	bash recipes/quickstart.sh

install: .venv/installed
install-dev: .venv/installed-dev

# A torch that is in the environment already is kept: its pin is left out of the constraints then.
.venv/constraints.txt: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	if $(BIN)/python -c "import torch" 2>/dev/null; then grep -v '^torch==' constraints.txt > $@; else cp constraints.txt $@; fi

.venv/installed: .venv/constraints.txt pyproject.toml
	$(BIN)/python -m pip install --quiet -c .venv/constraints.txt torch
	$(BIN)/python -m pip install --quiet -c .venv/constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet -c .venv/constraints.txt -e '.[test,dev]'
	touch $@

test: install-dev lint types
	$(BIN)/python -m pytest -n 2 tests

test-fast: install-dev
	$(BIN)/python -m pytest -n 2 -m "not slow and not vllm and not long and not kernels" tests

# Training in several processes, killed and begun again.
test-long: install-dev
	$(BIN)/python -m pytest -m long tests

# Liger's kernel for GPUs, interpreted on the CPU: with Triton (1 GB) in an environment of its own, torch is that of .venv.
test-kernels: install-dev .venv-kernels/installed
	$(BIN)/python -m pytest -m kernels tests/training/test_liger_logprobs.py

.venv-kernels/installed: tests/kernels-requirements.txt
	$(PYTHON) -m venv .venv-kernels
	.venv-kernels/bin/python -m pip install --quiet --no-deps -r $<
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$(.venv-kernels/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch_of_the_project.pth"
	touch $@

# The tests against a real vLLM, which gets an environment of its own (3.5 GB). Its CPU build finds a torchvision whose own
# operators do not load; nothing here needs them.
test-vllm: install-dev .venv-vllm/installed
	$(BIN)/python -m pytest -m vllm tests/backends/test_real_vllm.py

.venv-vllm/installed: tests/vllm-requirements.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --no-deps -r tests/vllm-requirements.txt
	echo 'import sys, types; sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("empty"))' \
		> "$$(.venv-vllm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/without_vision_operators.pth"
	touch $@

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-dev
	$(BIN)/mypy

bench: install-dev
	$(BIN)/python benchmarks/startup.py

# What we are measured against, in environments of its own.
.venv-%/installed: benchmarks/%-peers.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet -r $<
	touch $@

# Our verifier beside those of PyPI, in turn; remakes the table in docs/verifier.md.
bench-verifier: install-dev .venv-verifier/installed
	$(BIN)/python benchmarks/verifiers.py --peers .venv-verifier/bin/python --write

# Our client of servers beside the official one and a bare loop; remakes the table in docs/servers.md.
bench-client: install-dev .venv-client/installed
	$(BIN)/python benchmarks/client.py --peers .venv-client/bin/python --write

# What early stop spares on the embedded world; remakes the table in docs/servers.md. Half an hour.
bench-early-stop: install-dev
	$(BIN)/python benchmarks/early_stop.py --write

# `sophia propagate` beside DuckDB and orjson on 1.2 GB; remakes the table in docs/propagate.md.
bench-propagate: install-dev .venv-propagate/installed
	$(BIN)/python benchmarks/propagate.py --peers .venv-propagate/bin/python --write

# `sophia train` beside TRL, the same model and batches.
bench-train: install-dev
	$(BIN)/python benchmarks/train.py

# Peak memory of long trajectories, with logits of the whole length and without.
bench-memory: install-dev
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/memory.py --shared

# How long 100,000 questions against 10,000 take, and how many images a second are hashed.
bench-decontaminate: install-dev
	$(BIN)/python benchmarks/decontaminate.py

# Our verdicts beside VLMEvalKit's and lmms-eval's rule scorers on the same answers; remakes docs/harnesses.md.
bench-harnesses: install-dev .venv-harnesses/installed
	$(BIN)/python benchmarks/harnesses.py --peers .venv-harnesses/bin/python --write

.venv-harnesses/installed: benchmarks/harnesses-requirements.txt
	$(PYTHON) -m venv .venv-harnesses
	.venv-harnesses/bin/python -m pip install --quiet --no-deps -r $<
	touch $@

# Whether a real vLLM computes a prompt once for all its samples; remakes the table in docs/servers.md.
bench-prefill: install-dev .venv-vllm/installed
	$(BIN)/python benchmarks/prefill.py --vllm .venv-vllm/bin --write

# Rebuilds both embedded models from nothing: about 45 minutes on 2 cores.
tiny: install-dev
	bash recipes/tiny/build.sh

clean:
	rm -rf .venv .venv-* quickstart
