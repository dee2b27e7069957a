"""The proxy that the environment names for a server."""

import urllib.request
from urllib.parse import urlsplit

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


def find_proxy(url: str) -> str | None:
    """Returns the proxy that the environment names for a server; none for servers on this machine."""
    address = urlsplit(url)
    if address.hostname in LOCAL_HOSTS or urllib.request.proxy_bypass(address.hostname or ""):
        return None
    return urllib.request.getproxies().get(address.scheme)
