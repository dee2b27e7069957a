# All tasks of a checkout. `make quickstart` and `make test` work on a fresh machine with
# Python 3.11+, git and make.

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: quickstart install install-dev test test-fast test-long test-kernels test-vllm lint types bench bench-verifier bench-client bench-early-stop bench-prefill bench-propagate bench-decontaminate bench-train bench-memory bench-harnesses tiny clean

quickstart: install
	bash recipes/quickstart.sh

install: .venv/installed
install-dev: .venv/installed-dev

# An installed torch is kept: its pin is removed from the constraints.
.venv/constraints.txt: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	if $(BIN)/python -c "import torch" 2>/dev/null; then grep -v '^torch==' constraints.txt > $@; else cp constraints.txt $@; fi

.venv/installed: .venv/constraints.txt pyproject.toml
	$(BIN)/python -m pip install --quiet -c .venv/constraints.txt torch
	$(BIN)/python -m pip install --quiet -c .venv/constraints.txt -e '.[all]'
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet -c .venv/constraints.txt -e '.[all,test,dev]'
	touch $@

test: install-dev lint types
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations 20 tests

# Without the tests that take over five seconds.
test-fast: install-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not vllm and not long and not kernels" tests

# Training in several processes, killed and resumed.
test-long: install-dev
	$(BIN)/python -m pytest -m long tests

# Liger's GPU kernel, run by Triton's interpreter on the CPU. Triton (1 GB) has its own environment; torch is that of .venv.
test-kernels: install-dev .venv-kernels/installed
	$(BIN)/python -m pytest -m kernels tests/training/test_liger_logprobs.py

.venv-kernels/installed: tests/kernels-requirements.txt
	$(PYTHON) -m venv .venv-kernels
	.venv-kernels/bin/python -m pip install --quiet --no-deps -r $<
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$(.venv-kernels/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch_of_the_project.pth"
	touch $@

# The tests against a real vLLM, in an environment of its own (3.5 GB). The operators of the torchvision that its CPU build
# installs do not load; an empty module replaces them, because nothing here needs them.
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

# The peers of the benchmarks, each in an environment of its own.
.venv-%/installed: benchmarks/%-peers.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet -r $<
	touch $@

# Our verifier and those of PyPI, in turn; rewrites the table in docs/verifier.md.
bench-verifier: install-dev .venv-verifier/installed
	$(BIN)/python benchmarks/verifiers.py --peers .venv-verifier/bin/python --write

# Our server client, the official one and a bare loop; rewrites the table in docs/servers.md.
bench-client: install-dev .venv-client/installed
	$(BIN)/python benchmarks/client.py --peers .venv-client/bin/python --write

# Tokens that early stop saves on the embedded world; rewrites the table in docs/servers.md. Half an hour.
bench-early-stop: install-dev
	$(BIN)/python benchmarks/early_stop.py --write

# `sophia propagate`, DuckDB and orjson on 1.2 GB; rewrites the table in docs/propagate.md.
bench-propagate: install-dev .venv-propagate/installed
	$(BIN)/python benchmarks/propagate.py --peers .venv-propagate/bin/python --write

# `sophia train` and TRL on the same model and batches.
bench-train: install-dev
	$(BIN)/python benchmarks/train.py

# Peak memory of long trajectories, with and without logits of the whole length.
bench-memory: install-dev
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/memory.py --shared

# Time for 100,000 questions against 10,000, and images hashed per second.
bench-decontaminate: install-dev
	$(BIN)/python benchmarks/decontaminate.py

# Our verdicts and those of VLMEvalKit's and lmms-eval's rule scorers on the same answers; rewrites docs/harnesses.md.
bench-harnesses: install-dev .venv-harnesses/installed
	$(BIN)/python benchmarks/harnesses.py --peers .venv-harnesses/bin/python --write

.venv-harnesses/installed: benchmarks/harnesses-requirements.txt
	$(PYTHON) -m venv .venv-harnesses
	.venv-harnesses/bin/python -m pip install --quiet --no-deps -r $<
	touch $@

# Does a real vLLM compute a prompt once for all its samples? Rewrites the table in docs/servers.md.
bench-prefill: install-dev .venv-vllm/installed
	$(BIN)/python benchmarks/prefill.py --vllm .venv-vllm/bin --write

# Rebuilds both embedded models from scratch: about 45 minutes on 2 cores.
tiny: install-dev
	bash recipes/tiny/build.sh

clean:
	rm -rf .venv .venv-* quickstart
