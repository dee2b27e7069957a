"""Tests of training in several processes, on CPUs through DeepSpeed: same model, same names, exact resume, no hanging."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import pytest
import torch
from helpers.commands import ENVIRONMENT, SOPHIA, records_of, sophia, write_lines
from helpers.records import kept_records
from helpers.small_models import write_zero3
from helpers.trained_models import BASE, STEPS, curve, difference, killed
from safetensors.torch import load_file

from sophia_cli.errors import SophiaError, UsageError
from sophia_cli.serving.ports import free_port
from sophia_cli.training.config import TrainConfig
from sophia_cli.training.distributed import DistributedContext
from sophia_cli.training.engines import make_optimizer
from sophia_cli.training.launcher import (
    ERROR_SLOT_BYTES,
    GPUS_VARIABLE,
    LOST_PATTERN,
    HardwareOptions,
    _failure_reason,
    joined_context,
    note_error,
    process_environment,
    read_hostfile,
)
from sophia_cli.training.metrics_log import MetricsLog
from sophia_cli.training.schedule import share_batch
from sophia_cli.training.zero_stage import STAGES, bytes_needed, first_fitting_stage


@pytest.fixture(scope="module")
def data(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten weighted trajectories, five questions without images, and `alone`, the model that one process trains on both."""
    folder = tmp_path_factory.mktemp("ranks")
    write_lines(folder / "kept.jsonl", kept_records(lab, 10))
    write_lines(folder / "text.jsonl", [{"id": f"t{n}", "question": f"{n} + 1?", "answer": str(n + 1)} for n in range(5)])
    (folder / "alone.jsonl").write_bytes(train(folder, "alone").stdout)
    write_zero3(folder)
    dropping(folder / "dropping")
    return folder


def dropping(folder: Path) -> None:
    """The embedded model with dropout, so that a resumed run with a wrong random state gives another model."""
    shutil.copytree(BASE.parent, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["attention_dropout"] = 0.1
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def whole(data: Path) -> Path:
    """The model that one uninterrupted process trains on the trajectories alone."""
    sophia("train", "kept.jsonl", "-m", str(data / "dropping"), "--max-steps", "5", *STEPS, "-o", "whole", cwd=data)
    return data / "whole"


def train(folder: Path, out: str, *options: str, code: int = 0) -> subprocess.CompletedProcess[bytes]:
    mixed = ["kept.jsonl", "--mix", "text.jsonl", "--max-steps", "5", *STEPS]
    return sophia("train", *mixed, "-o", out, *options, cwd=folder, code=code)


@pytest.mark.parametrize(
    ("stage", "micro"),
    [
        pytest.param("zero1", "5", marks=pytest.mark.long),
        ("zero2", "2"),
        ("zero3.json", "1"),
        pytest.param("none", "3", marks=pytest.mark.long),
    ],
)
def test_two_processes_train_the_model_that_one_does(stage: str, micro: str, data: Path) -> None:
    """At every stage and every split of the batches. An update may have rows with and without images: ZeRO-3 must not
    hang.
    """
    out = Path(stage).stem
    done = train(data, out, "--cpu-ranks", "2", "--deepspeed", stage, "--micro-batch-size", micro)
    assert difference(data / "alone", data / out) < 0.01
    for ours, theirs in zip(curve(done.stdout), curve(data / "alone.jsonl"), strict=True):
        assert ours == (theirs[0], pytest.approx(theirs[1], rel=1e-3), pytest.approx(theirs[2], rel=1e-3))
    assert not (data / f"{out}.tmp").exists()
    before, after = load_file(BASE), load_file(data / out / "model.safetensors")
    still = [name for name in before if "vision_tower" in name or "projector" in name]
    assert still and all(torch.equal(before[name], after[name]) for name in still)


TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
DEEPSPEED = ["deepspeed.launcher.runner", "--hostfile", os.devnull, "--num_gpus", "2", "--module"]


@pytest.mark.long
@pytest.mark.parametrize("launcher", [TORCHRUN, DEEPSPEED], ids=["torchrun", "deepspeed"])
def test_where_others_have_started_the_processes_they_join(launcher: list[str], data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", *launcher, "sophia_cli", "train", "kept.jsonl", "--mix", "text.jsonl"]
    command += ["--max-steps", "5", *STEPS, "-o", str(tmp_path / "joined")]
    environment = {**ENVIRONMENT, "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, cwd=data, capture_output=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    assert difference(data / "alone", tmp_path / "joined") < 0.01
    told = [line for line in done.stdout.splitlines() if line.startswith(b"{")]  # DeepSpeed's launcher speaks there, too
    assert len(told) == 6  # the leading process alone speaks
    assert b"FutureWarning" not in done.stderr


@pytest.mark.long
def test_who_joins_ends_quietly_when_the_first_refuses(tmp_path: Path) -> None:
    command = [sys.executable, "-m", *TORCHRUN, "sophia_cli", "train", "none.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, env=ENVIRONMENT, timeout=600)
    said = [line for line in done.stderr.decode().splitlines() if line.startswith("sophia:")]
    assert done.returncode == 1 and len(said) == 1 and said[0].startswith("sophia: none.jsonl: cannot be opened")


@pytest.mark.slow
def test_a_run_that_replaces_a_model_goes_on_without_being_forced_again(whole: Path, tmp_path: Path) -> None:
    """Killed during training, and killed after the new model is in place but before the draft is deleted."""
    write_lines(tmp_path / "kept.jsonl", records_of(whole.parent / "kept.jsonl"))
    options = ["--save-every", "2", "-m", str(whole.parent / "dropping")]
    shutil.copytree(BASE.parent, tmp_path / "out")
    killed(tmp_path, "out", [*options, "--force"], after=4)
    draft = {file.name for file in (tmp_path / "out.tmp").iterdir()}
    shutil.copytree(tmp_path / "out.tmp", tmp_path / "kept.tmp")
    again = sophia("train", "kept.jsonl", "--max-steps", "5", *STEPS, "-o", "out", *options, cwd=tmp_path).stdout
    assert "step-2" in draft and curve(again) == curve(whole / "metrics.jsonl")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    (tmp_path / "kept.tmp").rename(tmp_path / "out.tmp")
    shutil.copyfile(tmp_path / "out/metrics.jsonl", tmp_path / "out.tmp/metrics.jsonl")
    sophia("train", "kept.jsonl", "--max-steps", "5", *STEPS, "-o", "out", *options, cwd=tmp_path)
    assert (tmp_path / "out/model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not (tmp_path / "out.tmp").exists()


@pytest.mark.slow
def test_one_process_trains_the_tower_as_several_do_where_an_update_shows_no_image(data: Path, tmp_path: Path) -> None:
    """Without a gradient the optimizer would skip momentum and weight decay."""
    for name in ("kept.jsonl", "text.jsonl"):
        write_lines(tmp_path / name, records_of(data / name)[:3])
    options = ["--mix", "text.jsonl", "--batch-size", "1", "--lr", "1e-3", "--max-steps", "6"]
    options += ["--train-vision", "--train-projector"]
    sophia("train", "kept.jsonl", *options, "-o", "one", cwd=tmp_path)
    sophia("train", "kept.jsonl", *options, "--cpu-ranks", "2", "--deepspeed", "none", "-o", "two", cwd=tmp_path)
    assert difference(tmp_path / "one", tmp_path / "two") < 0.01


def test_who_joins_ends_when_the_one_that_leads_refuses(data: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port("127.0.0.1"))}
    command = [*SOPHIA, "train", str(data / "kept.jsonl"), "-o", str(tmp_path / "there")]
    ranks = [{**ENVIRONMENT, **place, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    runs = [subprocess.Popen(command, env=each, stderr=subprocess.PIPE) for each in ranks]
    assert [run.wait(timeout=120) for run in runs] == [2, 1]
    assert runs[0].stderr and b"is a file" in runs[0].stderr.read()


@pytest.mark.parametrize("after", [1, pytest.param(2, marks=pytest.mark.long), 4])
def test_a_killed_run_goes_on_to_the_very_model_of_an_undisturbed_one(after: int, whole: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "kept.jsonl", records_of(whole.parent / "kept.jsonl"))
    options = ["--save-every", "2", "-m", str(whole.parent / "dropping")]
    killed(tmp_path, "out", options, after)
    again = sophia("train", "kept.jsonl", "--max-steps", "5", *STEPS, "-o", "out", *options, cwd=tmp_path).stdout
    assert curve(again) == curve(whole / "metrics.jsonl") == curve(tmp_path / "out" / "metrics.jsonl")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not (tmp_path / "out.tmp").exists()


@pytest.mark.long
@pytest.mark.parametrize(("stage", "ways"), [("zero2", "1"), ("zero3.json", "1"), ("zero2", "2")])
def test_a_killed_run_of_two_processes_goes_on_and_leaves_none_behind(
    stage: str, ways: str, data: Path, tmp_path: Path
) -> None:
    write_lines(tmp_path / "kept.jsonl", records_of(data / "kept.jsonl"))
    shutil.copyfile(data / "zero3.json", tmp_path / "zero3.json")
    options = ["--save-every", "2", "--cpu-ranks", "2", "--deepspeed", stage, "-m", str(data / "dropping")]
    options += ["--sequence-parallel", ways]
    whole = sophia("train", "kept.jsonl", "--max-steps", "5", *STEPS, "-o", "whole", *options, cwd=tmp_path).stdout
    killed(tmp_path, "out", options, after=3)
    deadline = time.monotonic() + 60
    while any(str(tmp_path) in line for line in commands()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(str(tmp_path) in line for line in commands())
    again = sophia("train", "kept.jsonl", "--max-steps", "5", *STEPS, "-o", "out", *options, cwd=tmp_path).stdout
    assert curve(again) == curve(whole)
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def commands() -> list[str]:
    """Returns the command lines of all processes."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def ranks_in(folder: Path) -> list[int]:
    """Returns the training processes whose draft is in a folder."""
    wanted = (b"sophia_cli.training.worker", str(folder).encode())
    files = [file for file in Path("/proc").glob("[0-9]*/cmdline") if all(word in file.read_bytes() for word in wanted)]
    return [int(file.parent.name) for file in files]


def environment_of(process: int) -> bytes:
    return b"\0" + Path(f"/proc/{process}/environ").read_bytes()


@pytest.mark.long
def test_a_process_that_dies_ends_the_run_with_one_line(data: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "kept.jsonl", records_of(data / "kept.jsonl"))
    command = [*SOPHIA, "train", "kept.jsonl", "--max-steps", "50", *STEPS, "-o", "out", "--cpu-ranks", "2"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as run:
        assert run.stdout and run.stderr
        run.stdout.readline()
        ranks = [process for process in ranks_in(tmp_path) if b"\0LOCAL_RANK=1\0" in environment_of(process)]
        os.kill(ranks[0], signal.SIGKILL)
        errors = run.stderr.read().decode()
    assert run.returncode == 1 and "Traceback" not in errors
    assert "sophia: " in errors.splitlines()[-1] and "log.txt" in errors.splitlines()[-1]


def test_the_reason_why_training_processes_ended_is_one_line(tmp_path: Path) -> None:
    """The first reason that a process left, unless one was killed; space for reasons is allocated in advance."""
    errors = tmp_path / "errors"
    errors.write_bytes(b"\n" * ERROR_SLOT_BYTES * 3)
    before = errors.stat()
    assert _failure_reason("a\nssh: connect to host node-1: refused\n\n", errors).endswith(
        "ended: ssh: connect to host node-1: refused"
    )
    assert "killed (signal 9)" in _failure_reason("['python'] exits with return code = -9\n", errors)
    note_error(tmp_path, 1, "RuntimeError: Read error [127.0.0.1]:4711: Connection reset by peer")
    assert "a training process was killed; run the command again" in _failure_reason("Traceback", errors)
    unread = "w1/c0/t0: image does not open: image http://a/b.png cannot be read (Connection refused), unlike before"
    taken = "DistNetworkError: The server socket has failed to listen on any local network address. port: 29500, EADDRINUSE"
    full = "DistBackendError: NCCL error: System call (e.g. socket, malloc) failed. Last error: No space left on device (28)"
    assert not any(LOST_PATTERN.match(reason) for reason in (unread, taken, full))  # reasons of their own
    assert LOST_PATTERN.match(
        "DistNetworkError: Failed to recv, got 0 bytes. Connection was likely closed. Did the remote crash?"
    )
    note_error(tmp_path, 2, "step-4: cannot be written\n(No space left on device)")
    note_error(tmp_path, 0, "peer is gone" * 100)
    after = errors.stat()
    assert (after.st_size, after.st_blocks) == (before.st_size, before.st_blocks)
    assert _failure_reason("Traceback", errors) == "step-4: cannot be written (No space left on device)"


@pytest.mark.slow
def test_a_launcher_that_dies_is_no_trained_model(data: Path, tmp_path: Path) -> None:
    """DeepSpeed's runner exits with 0 when a signal ended its processes, for example when memory ran out."""
    write_lines(tmp_path / "kept.jsonl", records_of(data / "kept.jsonl"))
    options = ["train", "kept.jsonl", "--max-steps", "200", *STEPS, "--cpu-ranks", "2", "--save-every", "1", "-o", "out"]
    with subprocess.Popen([*SOPHIA, *options], cwd=tmp_path, stdout=PIPE, stderr=PIPE, env=ENVIRONMENT) as run:
        assert run.stdout and run.stderr
        assert all(b"loss" in run.stdout.readline() for _ in range(2))
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = file.read_bytes()
                if b"deepspeed.launcher.launch" in words and str(tmp_path).encode() in words:
                    os.kill(int(file.parent.name), signal.SIGKILL)
        run.stdout.read()
        said = run.stderr.read().decode().splitlines()[-1]
    assert run.returncode == 1 and said.startswith("sophia: ") and "out.tmp/log.txt" in said
    assert list((tmp_path / "out.tmp").glob("step-*/whole.json")) and not (tmp_path / "out").exists()
    assert not (tmp_path / "out.manifest.json").exists()


@pytest.mark.slow
def test_another_number_of_processes_does_not_go_on(data: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "kept.jsonl", records_of(data / "kept.jsonl"))
    options = ["--deepspeed", "none", "--save-every", "1"]
    killed(tmp_path, "out", options, after=3)
    done = sophia(
        "train", "kept.jsonl", "--max-steps", "5", *STEPS, "-o", "out", *options, "--cpu-ranks", "2", cwd=tmp_path, code=2
    )
    assert "written by 1 processes, now there are 2" in done.stderr.decode()


@pytest.mark.slow
def test_a_run_begun_with_other_settings_is_refused_by_name(data: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "kept.jsonl", records_of(data / "kept.jsonl"))
    killed(tmp_path, "out", [], after=1)
    done = sophia("train", "kept.jsonl", *STEPS, "--max-steps", "6", "-o", "out", cwd=tmp_path, code=2)
    assert "max_steps (5, now 6)" in done.stderr.decode()
    write_lines(tmp_path / "kept.jsonl", records_of(data / "kept.jsonl")[1:])
    done = sophia("train", "kept.jsonl", *STEPS, "--max-steps", "5", "-o", "out", cwd=tmp_path, code=2)
    assert "rows (" in done.stderr.decode()
    rows = records_of(data / "kept.jsonl")
    copies = [{**row, "image": f"{row['id']}.png"} for row in rows]
    for row, copy in zip(rows, copies, strict=True):
        shutil.copyfile(row["image"], tmp_path / copy["image"])
    write_lines(tmp_path / "kept.jsonl", copies)
    killed(tmp_path, "out", ["--force"], after=1)
    shutil.copyfile(rows[-1]["image"], tmp_path / copies[0]["image"])
    assert rows[-1]["image"] != rows[0]["image"]
    done = sophia("train", "kept.jsonl", *STEPS, "--max-steps", "5", "-o", "out", cwd=tmp_path, code=2)
    assert "rows (" in done.stderr.decode()  # an image that changed is another row
    sophia("train", "kept.jsonl", *STEPS, "--max-steps", "1", "-o", "out", "--force", cwd=tmp_path)


@pytest.mark.slow
def test_a_second_run_into_the_same_folder_is_refused(whole: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "kept.jsonl", records_of(whole.parent / "kept.jsonl"))
    options = ["train", "kept.jsonl", "--max-steps", "500", *STEPS, "-o", "out"]
    with subprocess.Popen(
        [*SOPHIA, *options], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    ) as run:
        assert run.stdout and b"loss" in run.stdout.readline()
        for more in ([], ["--force"]):
            assert "another run" in sophia(*options, *more, cwd=tmp_path, code=2).stderr.decode()
        assert b"loss" in run.stdout.readline()
        run.kill()


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_checkpoint(whole: Path, tmp_path: Path) -> None:
    """The second checkpoint does not fit; after space is freed the run resumes from the first."""
    write_lines(tmp_path / "kept.jsonl", records_of(whole.parent / "kept.jsonl"))
    model = ["-m", str(whole.parent / "dropping")]
    options = ["train", "kept.jsonl", "--max-steps", "5", *STEPS, "--save-every", "2", "-o", "out", *model]
    killed(tmp_path, "out", ["--save-every", "2", *model], after=3)
    mark = tmp_path / "out.tmp/step-2/whole.json"
    assert json.loads(mark.read_bytes())["step"] == 2
    command = f"ulimit -f 200; exec {' '.join([*SOPHIA, *options])}"  # blocks of 512 or 1024 bytes
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, env=ENVIRONMENT, timeout=600)
    assert done.returncode == 1
    assert "step-4: cannot be written" in done.stderr.decode() and "Traceback" not in done.stderr.decode()
    assert mark.exists() and not (tmp_path / "out.tmp/step-4").exists()
    sophia(*options, cwd=tmp_path)
    assert curve(tmp_path / "out/metrics.jsonl") == curve(whole / "metrics.jsonl")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_hostfiles(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# nodes\nnode-0 slots=8\n\nnode-1 slots=4  # half\n")
    assert read_hostfile(file) == [("node-0", 8), ("node-1", 4)]
    for text, line in (("node-0\n", 1), ("a slots=8\nb slots=x\n", 2), ("a slots=0\n", 1)):
        file.write_text(text)
        with pytest.raises(UsageError, match=f"hosts:{line}: "):
            read_hostfile(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_hostfile(tmp_path / "none")


def test_srun_makes_ranks_and_a_batch_script_alone_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that what `joined` sets is taken back
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert joined_context(HardwareOptions()) is None
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    with pytest.raises(UsageError, match="MASTER_ADDR"):
        joined_context(HardwareOptions())
    monkeypatch.setenv("MASTER_ADDR", "node-0")
    assert joined_context(HardwareOptions()) == DistributedContext(3, 8, 1)
    with pytest.raises(UsageError, match="--cpu-ranks"):
        joined_context(HardwareOptions(cpu_ranks=2))


def test_ranks_get_the_gpus_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert (
        process_environment(HardwareOptions())[GPUS_VARIABLE] == "2,3"
        and process_environment(HardwareOptions(["4", "6"]))[GPUS_VARIABLE] == "4,6"
    )
    assert GPUS_VARIABLE not in process_environment(HardwareOptions(hostfile=Path("hosts")))


def test_figures_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    curve = MetricsLog(tmp_path, 0, DistributedContext())
    curve.file.unlink()
    curve.file.mkdir()
    with pytest.raises(SophiaError, match="run the command again"):
        curve.add_update({"step": 1})


def test_matrices_decay_and_vectors_do_not() -> None:
    policy = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2), torch.nn.Linear(2, 1))
    policy[2].weight.requires_grad_(False)
    groups = make_optimizer(
        policy, TrainConfig("sft", 1, 1, 1e-3, 0.1, 0.1, "tokens", 1, None, 8, 0), torch.device("cpu")
    ).param_groups
    shapes = {group["weight_decay"]: sorted(tuple(each.shape) for each in group["params"]) for group in groups}
    assert shapes == {0.1: [(2, 3)], 0.0: [(1,), (2,), (2,), (2,)]}


def test_rows_are_dealt_out_longest_first() -> None:
    lengths = [5, 9, 1, 7, 3]
    first, second = (share_batch(range(5), lengths, 2, rank, 2) for rank in (0, 1))
    assert [part.rows for part in first] == [[1, 3], [2]] and [part.rows for part in second] == [[0, 4], [2]]
    assert [part.filler for part in (*first, *second)] == [False, False, False, True]


def test_the_stage_that_fits_is_chosen() -> None:
    """For an 8B model with a frozen vision tower, on GPUs of 80 GB."""
    gpu, weights, trained = 80 * 10**9, 8 * 10**9, 76 * 10**8
    stages = [first_fitting_stage(weights, trained, processes, gpu) for processes in (1, 2, 4, 8, 64)]
    assert stages == ["zero3-offload", "zero3-offload", "zero1", "zero1", "zero1"]
    assert [first_fitting_stage(weights, trained, processes, gpu) for processes in (3, 8)] == ["zero2", "zero1"]
    assert first_fitting_stage(38 * 10**9, 32 * 10**9, 16, gpu) == "zero3"
    with pytest.raises(UsageError, match="--lora-rank"):
        first_fitting_stage(72 * 10**9, 72 * 10**9, 2, gpu)


@pytest.mark.parametrize("stage", ["none", *STAGES])
def test_a_reference_costs_its_weights(stage: str) -> None:
    more = bytes_needed(stage, 10, 8, 2, references=1) - bytes_needed(stage, 10, 8, 2)
    assert more == {"none": 40, "zero1": 20, "zero2": 20, "zero3": 10, "zero3-offload": 10}[stage]


STAGE_0 = '{"zero_optimization": {"stage": 0}}'


@pytest.mark.slow
def test_a_deepspeed_file_of_ones_own(data: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "kept.jsonl", records_of(data / "kept.jsonl"))
    options = ["train", "kept.jsonl", "--max-steps", "1", *STEPS, "--cpu-ranks", "1", "--deepspeed", "own.json"]
    for text, fault in (("{", "own.json"), ('{"bf16": {}}', "zero_optimization"), ("[]", "own.json"), (STAGE_0, "stage 0")):
        (tmp_path / "own.json").write_text(text)
        assert fault in sophia(*options, cwd=tmp_path, code=2).stderr.decode()
    stage = {"stage": 2, "reduce_bucket_size": "auto"}
    given = {"optimizer": {"type": "Adam"}, "train_batch_size": 64, "gradient_clipping": 0.5, "fp16": {"enabled": True}}
    for name, value in given.items():
        (tmp_path / "own.json").write_text(json.dumps({"zero_optimization": stage, name: value}))
        assert f"`{name}`" in sophia(*options, cwd=tmp_path, code=2).stderr.decode()
    auto = {**dict.fromkeys(given, "auto"), "fp16": {"enabled": "auto", "loss_scale": 0}, "bf16": {"enabled": "auto"}}
    (tmp_path / "own.json").write_text(json.dumps({"zero_optimization": stage, **auto}))
    assert len(curve(sophia(*options, cwd=tmp_path).stdout)) == 1
