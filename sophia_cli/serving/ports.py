"""Finds a free port."""

import socket

from sophia_cli.errors import UsageError


def free_port(host: str, wanted: int = 0) -> int:
    """Returns the wanted port, or one that is free now.

    Raises:
        UsageError: the port is taken or the host is not this machine.
    """
    where = f"--host {host}" + (f" --port {wanted}" if wanted else "")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, wanted))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise UsageError(f"{where}: a server cannot listen there ({getattr(error, 'strerror', None) or error})") from None
