"""Makes a client from server addresses, with no more requests in flight than this process may open sockets."""

import os
import resource

from sophia_cli.backends._openai.client import Client
from sophia_cli.backends._openai.client_config import ClientConfig
from sophia_cli.backends._openai.load_balancer import LoadBalancer
from sophia_cli.errors import UsageError
from sophia_cli.inference.backend_options import BackendOptions
from sophia_cli.models.aliases import ModelRef

DEFAULT_IN_FLIGHT = 256
"""Requests in flight per server without `--concurrency`: what vLLM runs at a time by default."""
# Descriptors for the step's own files, its libraries, and images that are being read.
SPARE_FILES = 100


def make_client(urls: list[str], model: ModelRef, options: BackendOptions, key_name: str) -> Client:
    """Returns a client of these servers.

    Args:
        urls: Their addresses.
        model: The model.
        options: How to reach them.
        key_name: The environment variable with the API key, if it is set.

    Raises:
        UsageError: the key cannot be sent, or more requests are wanted than this process may open sockets.
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
    """Returns the key without a trailing line break.

    Raises:
        UsageError: it has other characters that a header cannot hold. The message does not show it.
    """
    key = os.environ.get(name, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"{name}: contains characters that an HTTP header cannot hold; set it again")
    return key or None


def _max_in_flight(wanted: int | None, usual: int) -> int:
    """Returns the wanted number of requests, else the usual or the possible number. Each needs a socket.

    Raises:
        UsageError: the wanted number exceeds the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard - SPARE_FILES if hard != resource.RLIM_INFINITY else 1 << 30
    if (wanted or 1) > most:
        raise UsageError(
            f"--concurrency {wanted}: this process may open {hard} files; raise the limit (ulimit -n) or give less"
        )
    wanted = wanted or max(1, min(usual, most))
    if soft != resource.RLIM_INFINITY and soft < wanted + SPARE_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted + SPARE_FILES, hard))
    return wanted
