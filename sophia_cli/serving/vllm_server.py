"""Starts `vllm serve`, waits until it is ready, and stops it: one server per replica, each under a supervisor
(`supervisor.py`).
"""

import http.client
import importlib.util
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sophia_cli.errors import SophiaError, UsageError
from sophia_cli.models.aliases import ModelRef
from sophia_cli.runtime.progress import log_info, log_line
from sophia_cli.serving import gpus, supervisor
from sophia_cli.serving.ports import free_port

# Loading a large model from a slow shared disk and compiling its kernels takes many minutes.
START_TIMEOUT_SECONDS = 1800.0
GRACE_SECONDS = 10.0
"""Seconds between SIGTERM and SIGKILL."""
POLL_SECONDS = 0.25
# vLLM's own traceback is longer, but its last lines name the cause.
TAIL_LINES = 30
MAX_STARTS = 3
"""Ports that are tried, because another process may take a port before the server does."""
OWN_SERVER_HINT = "start the server yourself and give its --base-url"
RESERVED_OPTIONS = {
    "--port": "use `sophia serve --port`; the vllm backend takes a free one",
    "--host": "use `sophia serve --host`",
    "--api-key": "set VLLM_API_KEY, which is not logged",
    "--uds": OWN_SERVER_HINT,
    "--root-path": OWN_SERVER_HINT,
}
PORT_TAKEN = "address already in use"
ANY_HOST = ("0.0.0.0", "::")
SERVER_MODULE = "vllm.entrypoints.openai.api_server"


@dataclass(frozen=True)
class ServerConfig:
    """How servers are started.

    Attributes:
        gpus: As in `--gpus`; None takes all visible GPUs.
        tensor_parallel: GPUs per server.
        options: More vLLM options, as typed.
        start_timeout: Seconds until a server must be ready.
        shared_disk: Servers may read images by their paths.
        host: Address to listen at.
        port: Port of the first replica; 0 takes free ports.
    """

    gpus: str | None = None
    tensor_parallel: int = 1
    options: str = ""
    start_timeout: float = START_TIMEOUT_SECONDS
    shared_disk: bool = False
    host: str = "127.0.0.1"
    port: int = 0

    @property
    def given_options(self) -> list[str]:
        """The options that were given; only the vllm backend uses them."""
        given = {
            "--gpus": self.gpus,
            "--server-options": self.options,
            "--start-timeout": self.start_timeout != START_TIMEOUT_SECONDS,
        }
        given["--tensor-parallel"] = self.tensor_parallel != 1
        return [name for name, value in given.items() if value]

    def replicas(self) -> list[list[str]]:
        """Returns the GPUs of each replica.

        Raises:
            UsageError: the GPUs cannot be divided.
        """
        found = gpus.visible_gpus() if self.gpus is None else gpus.select_gpus(self.gpus)
        return gpus.split_replicas(found, self.tensor_parallel)


def can_serve() -> bool:
    """Tells whether vLLM and a GPU are available."""
    return bool(importlib.util.find_spec("vllm") or shutil.which("vllm")) and bool(gpus.visible_gpus())


def vllm_command() -> list[str]:
    """Returns the Python that runs vLLM's server: this one, else the one beside the `vllm` on PATH.

    Raises:
        UsageError: vLLM is not installed.
    """
    if importlib.util.find_spec("vllm"):
        return [sys.executable, "-m", SERVER_MODULE]
    script = shutil.which("vllm")
    if script is None:
        raise UsageError(
            "vLLM is not installed; run pip install vllm, here or in a separate environment whose bin folder is on PATH, "
            "or give --base-url of a running server"
        )
    python = Path(script).resolve().parent / "python"
    return [str(python), "-m", SERVER_MODULE] if python.exists() else [script, "serve"]


@dataclass
class VLLMServer:
    """One replica: its address, its log, its supervisor. served_alias: a model name by which we recognize our own server."""

    model: ModelRef
    config: ServerConfig
    number: int
    gpus: list[str]
    port: int = 0
    log: Path = Path()
    supervisor_process: "subprocess.Popen[bytes] | None" = None
    ready: bool = False
    starts: int = 0
    served_alias: str = field(default_factory=lambda: f"sophia-{secrets.token_hex(4)}")

    @property
    def url(self) -> str:
        """Its address for clients, also on other machines when it listens on all interfaces."""
        host = socket.gethostname() if self.config.host in ANY_HOST else self.config.host
        return f"http://{bracket_ipv6(host)}:{self.port}/v1"

    def start(self) -> None:
        """Starts the server on a free port, or on the requested one."""
        self.starts += 1
        self.port = free_port(self.config.host, self.config.port and self.config.port + self.number)
        self.log = log_file(self.model, self.port)
        environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1"}  # no usage statistics
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        else:
            # Otherwise two servers are bound to the same cores.
            environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        command = [sys.executable, "-I", str(Path(supervisor.__file__)), str(GRACE_SECONDS), *self.command_line()]
        with self.log.open("wb") as log:
            log.write(f"{shlex.join(command[4:])}\n".encode())
            log.flush()
            self.supervisor_process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def command_line(self) -> list[str]:
        """Returns the server's command line. The user's options come last and win."""
        names = dict.fromkeys((self.model.name, self.model.path, self.served_alias))
        command = [*vllm_command(), "--model", self.model.path, "--served-model-name", *names]
        command += ["--host", self.config.host, "--port", str(self.port), "--disable-uvicorn-access-log"]
        if self.config.tensor_parallel > 1:
            command += ["--tensor-parallel-size", str(self.config.tensor_parallel)]
        if self.config.shared_disk:
            command += ["--allowed-local-media-path", "/"]
        return [*command, *split_options(self.model.default("vllm", "options", "")), *split_options(self.config.options)]

    def exit_code(self) -> int | None:
        """Returns its exit code if it has ended."""
        return self.supervisor_process.poll() if self.supervisor_process else None

    def is_ready(self) -> bool:
        """Tells whether it answers and is ours, not another server on the same port."""
        host = "localhost" if self.config.host in ANY_HOST else self.config.host
        address = f"http://{bracket_ipv6(host)}:{self.port}"
        key = os.environ.get("VLLM_API_KEY")
        headers = {"Authorization": f"Bearer {key.strip()}"} if key else {}
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"{address}/health", timeout=5):
                pass
            with direct.open(urllib.request.Request(f"{address}/v1/models", headers=headers), timeout=5) as answer:
                return self.served_alias.encode() in answer.read(1 << 20)
        except (OSError, ValueError, http.client.HTTPException):
            return False

    def log_tail(self) -> str:
        """Returns the last lines of its log."""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 100_000))
            lines = log.read().decode("utf-8", "replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def location_text(self) -> str:
        return f"GPU {','.join(self.gpus)}" if self.gpus else "the CPU"


@dataclass
class VLLMServers:
    """All replicas of one model. `stop` may be called from any thread, at any time, repeatedly."""

    model: ModelRef
    config: ServerConfig
    replicas: list[VLLMServer] = field(default_factory=list)
    stopped: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Starts every replica and waits until all are ready.

        Raises:
            SophiaError: one ends or takes too long.
        """
        self.replicas = [
            VLLMServer(self.model, self.config, number, part) for number, part in enumerate(self.config.replicas())
        ]
        began = time.monotonic()
        for server in self.replicas:
            self._start_server(server)
        logs = ", ".join(str(server.log) for server in self.replicas)
        places = ", ".join(server.location_text() for server in self.replicas)
        log_info(f"{self.model.name}: starting {len(self.replicas)} vLLM on {places}; log {logs}")
        while not all(server.ready for server in self.replicas):
            for server in self.replicas:
                server.ready = server.ready or self._poll_server(server)
            if time.monotonic() - began > self.config.start_timeout:
                slow = next(server for server in self.replicas if not server.ready)
                self._fail_start(slow, f"is not ready after {self.config.start_timeout:.0f} s (--start-timeout)")
            time.sleep(POLL_SECONDS)
        log_info(f"{self.model.name}: ready after {time.monotonic() - began:.0f} s")

    def _start_server(self, server: VLLMServer) -> None:
        with self.lock:
            if self.stopped:
                raise SophiaError(f"{self.model.name}: stopped while its servers were starting")
            try:
                server.start()
            except OSError as error:
                raise SophiaError(f"{self.model.name}: its server cannot be started ({error.strerror or error})") from None

    def _poll_server(self, server: VLLMServer) -> bool:
        """Tells whether a server is ready; restarts one whose port was taken."""
        code = server.exit_code()
        if code is None:
            return server.is_ready()
        if PORT_TAKEN in server.log_tail().casefold() and server.starts < MAX_STARTS and not self.config.port:
            self._start_server(server)
            return False
        self._fail_start(server, f"ended with code {code} before it was ready")
        return False

    def _fail_start(self, server: VLLMServer, what: str) -> None:
        """Stops all servers and raises SophiaError; logs the end of the log, and what holds the GPUs."""
        if not self.stopped:
            log_line(server.log_tail())
        held = "; ".join(gpus.gpu_holders(server.gpus)) if server.exit_code() is not None else ""
        self.stop()
        raise SophiaError(
            f"{self.model.name}: the server on {server.location_text()} {what}; its log is {server.log}"
            + (f"; {held}: stop it, or choose others with --gpus" if held else "")
        )

    def ended_servers(self) -> list[VLLMServer]:
        """Returns the servers that ended by themselves."""
        return [] if self.stopped else [server for server in self.replicas if server.exit_code() is not None]

    def stop(self) -> None:
        """Stops all servers and waits until they have ended, little more than GRACE_SECONDS."""
        with self.lock:
            self.stopped = True
            supervisors = [server.supervisor_process for server in self.replicas if server.supervisor_process]
        for process in supervisors:
            if process.stdin:
                process.stdin.close()
        deadline = time.monotonic() + 2 * GRACE_SECONDS
        for process in supervisors:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log_line(f"{self.model.name}: server {process.pid} does not end; killing it")

    def watch_servers(self, on_exit: Callable[[VLLMServer, str], None]) -> None:
        """Calls `on_exit` once for each server that ends by itself, from a thread."""

        def look() -> None:
            known: set[int] = set()
            while not self.stopped:
                for server in self.ended_servers():
                    if server.number not in known and not self.stopped:
                        known.add(server.number)
                        on_exit(server, f"the server ended with code {server.exit_code()}; its log is {server.log}")
                time.sleep(POLL_SECONDS)

        threading.Thread(target=look, daemon=True).start()


def split_options(options: str) -> list[str]:
    """Splits options as a shell does.

    Raises:
        UsageError: they cannot be split, or contain an option that we set ourselves, or a secret.
    """
    try:
        given = shlex.split(options)
    except ValueError as error:
        raise UsageError(f"--server-options {options}: {error}; quote it as in a shell") from None
    for word in given:
        option = word.partition("=")[0].replace("_", "-")
        if option in RESERVED_OPTIONS or option.startswith("--ssl-"):
            raise UsageError(
                f"--server-options: {option} cannot be set here; {RESERVED_OPTIONS.get(option, OWN_SERVER_HINT)}"
            )
    return given


def bracket_ipv6(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def log_file(model: ModelRef, port: int) -> Path:
    """Returns the path of a server's log: `$XDG_STATE_HOME/sophia/MODEL-HOST-PORT-PID.log`, in ~/.local/state by default."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model.name).strip("-") or "model"
    folder = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    try:
        state = Path(folder).expanduser() / "sophia"
        state.mkdir(parents=True, exist_ok=True)
        log = state / f"{name}-{socket.gethostname()}-{port}-{os.getpid()}.log"
        log.touch()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{folder}/sophia: the servers' logs cannot be written ({reason}); set XDG_STATE_HOME") from None
    return log
