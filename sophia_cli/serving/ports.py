"""Ports."""

import socket

from sophia_cli.errors import UsageError


def free_port(host: str, wanted: int = 0) -> int:
    """The wanted port, or one that nobody listens on just now. Raises UsageError."""
    where = f"--host {host}" + (f" --port {wanted}" if wanted else "")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, wanted))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise UsageError(f"{where}: no server can listen there ({getattr(error, 'strerror', None) or error})") from None
