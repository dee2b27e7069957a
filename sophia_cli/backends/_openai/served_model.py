"""Finds the model on the servers: under which name, on which engine, with how long a context."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sophia_cli.backends._openai.client_config import ClientConfig
from sophia_cli.backends._openai.http import ConnectionPool
from sophia_cli.backends._openai.http_errors import ConnectError, ConnectionLost, ResponseTooLarge
from sophia_cli.backends._openai.load_balancer import ServerState
from sophia_cli.errors import SophiaError
from sophia_cli.runtime.progress import log_line

# A server that is still loading its model accepts connections but does not respond; requests then wait for it.
DISCOVERY_SECONDS = 10.0
MAX_LIST_BYTES = 1 << 20


@dataclass(frozen=True)
class ServedModel:
    """The model as the servers list it: its name, the engine (`vllm`, `sglang`, or unknown), and the most tokens of a
    request.
    """

    name: str
    engine: str = ""
    context: float = math.inf


async def discover_model(
    pool: ConnectionPool, servers: Sequence[ServerState], proxies: Mapping[str, str | None], config: ClientConfig
) -> ServedModel:
    """Finds the model on the first server that lists its models; trusts the name where none does.

    Raises:
        SophiaError: the servers list other models.
    """
    asked = [asyncio.create_task(_list_models(pool, server, proxies[server.url])) for server in servers]
    known: list[dict[str, Any]] = []
    for listed in asyncio.as_completed(asked):
        # One list is enough: all servers of a fleet serve the same model.
        if known := known or await listed:
            break
    for task in asked:
        task.cancel()
    names = {entry["id"]: entry for entry in known}
    for name in config.names:
        if name in names:
            length = names[name].get("max_model_len")
            context = length if isinstance(length, int) and length > 0 else math.inf
            return ServedModel(name, str(names[name].get("owned_by", "")), context)
    if names:
        listed_names = ", ".join(list(names)[:5])
        raise SophiaError(
            f"{config.names[0]}: the server does not serve this model; it serves {listed_names}, use one of these"
        )
    return ServedModel(config.otherwise)


async def _list_models(pool: ConnectionPool, server: ServerState, proxy: str | None) -> list[dict[str, Any]]:
    """Returns the models that a server lists; none, with a log line, if it does not within DISCOVERY_SECONDS."""
    try:
        answer = await pool.get(f"{server.url}/models", proxy, DISCOVERY_SECONDS, MAX_LIST_BYTES)
        if answer.status != 200:
            return []
        data = orjson.loads(answer.body)["data"]
        return [entry for entry in data if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    except TimeoutError:
        trouble = f"no response within {DISCOVERY_SECONDS:.0f} s"
    except (ConnectError, ConnectionLost, ResponseTooLarge, ValueError, LookupError, TypeError) as error:
        trouble = str(error) or type(error).__name__
    log_line(f"{server.url}: cannot list its models ({' '.join(trouble.split())[:200]})")
    return []
