"""A fake vLLM server that is as slow or as broken as the test asks: FAKE_VLLM lists its faults, separated by spaces.

Each of its processes writes its id and its arguments to a file in the folder FAKE_VLLM_PIDS. Like vLLM it has
children, one of which leaves its session.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

sys.path.insert(0, str(Path(__file__).parent.parent))  # it is run as a script
from helpers.chat_server import ChatServer


def note(pid: int) -> None:
    seen = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "VLLM_NO_USAGE_STATS")}
    text = json.dumps({"arguments": sys.argv[1:], **seen})
    Path(os.environ["FAKE_VLLM_PIDS"], str(pid)).write_text(text)


def value_of(option: str) -> str:
    return sys.argv[sys.argv.index(option) + 1]


def locked(open_to_all: Any) -> Any:
    async def chat(self: ChatServer, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != "Bearer k3y":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return await open_to_all(self, request)

    return chat


ways = os.environ.get("FAKE_VLLM", "").split()
note(os.getpid())
note(subprocess.Popen(["sleep", "1000"], start_new_session=True).pid)
if "deaf" in ways:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "broken" in ways:
    print("loading weights\nRuntimeError: the weights are of another model", flush=True)
    raise SystemExit(3)
if "port-taken" in ways and len(list(Path(os.environ["FAKE_VLLM_PIDS"]).iterdir())) <= 2:
    raise OSError(98, "Address already in use")
while "never-well" in ways:
    time.sleep(1)
if "locked" in ways:
    ChatServer._chat = locked(ChatServer._chat)  # type: ignore[method-assign]
server = ChatServer(model=value_of("--served-model-name"), delay=0.05)
server.port = int(value_of("--port"))
server.other_names = sys.argv[sys.argv.index("--served-model-name") + 2 : sys.argv.index("--host")]
with server:
    while "mortal" not in ways or server.arrived < 5:
        time.sleep(0.05)
