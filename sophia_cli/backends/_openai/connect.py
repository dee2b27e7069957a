"""From addresses to a client, with no more requests in flight than this process may hold sockets."""

import os
import resource

from sophia_cli.backends._openai.client import Client, ClientConfig
from sophia_cli.backends._openai.load_balancer import LoadBalancer
from sophia_cli.errors import UsageError
from sophia_cli.inference.backend_options import BackendOptions
from sophia_cli.models.aliases import ModelRef

DEFAULT_IN_FLIGHT = 256
"""Requests in flight for each server, unless `--concurrency` says otherwise: what vLLM runs at once by default."""
SPARE_FILES = 100


def make_client(urls: list[str], model: ModelRef, options: BackendOptions, key_name: str) -> Client:
    """A client of these servers; key_name: the variable whose value goes with every request, if it is set.

    Raises UsageError for an odd key, and for more requests at once than this process may hold sockets.
    """
    return Client(
        LoadBalancer.from_urls(urls, options.retries),
        ClientConfig(
            names=(model.name, model.path),
            otherwise=model.name if os.path.isdir(model.path) else model.path,
            concurrency=_max_in_flight(options.concurrency, DEFAULT_IN_FLIGHT * len(urls)),
            timeout=options.timeout,
            retries=options.retries,
            images="file" if options.shared_disk else "data",
            key=_read_key(key_name),
            key_name=key_name,
        ),
    )


def _read_key(name: str) -> str | None:
    """The key without the line break that files end with. Raises UsageError, which does not show it, for other odd ones."""
    key = os.environ.get(name, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"{name}: holds characters that no header can carry; set it anew")
    return key or None


def _max_in_flight(wanted: int | None, usual: int) -> int:
    """As many requests as wanted, else as usual or possible: each needs a socket. Raises UsageError beyond the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard - SPARE_FILES if hard != resource.RLIM_INFINITY else 1 << 30
    if (wanted or 1) > most:
        raise UsageError(f"--concurrency {wanted}: this process may open {hard} files; raise it (ulimit -n) or give less")
    wanted = wanted or max(1, min(usual, most))
    if soft != resource.RLIM_INFINITY and soft < wanted + SPARE_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted + SPARE_FILES, hard))
    return wanted
