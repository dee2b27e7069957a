"""A minimal HTTP/1.1 client for chat servers: one request at a time on a connection, which is kept for the next one.

llhttp (httptools) parses responses, asyncio holds sockets and TLS. aiohttp does more and takes twice the CPU, which
limits a step with a thousand requests in flight (`make bench-client`). Left out on purpose: redirects (a moved address
is reported, and no key follows it), cookies, compressed responses.
"""

import asyncio
import base64
import contextlib
import functools
import socket
import ssl
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

import httptools

from sophia_cli import __version__
from sophia_cli.backends._openai.http_errors import ConnectError, ConnectionLost, ResponseTooLarge
from sophia_cli.backends._openai.tls import tls_context, tls_error

# A dropped packet costs 1, 3, 7 or 15 seconds of retransmission; 30 survives four of them.
CONNECT_SECONDS = 30.0
NEXT_ADDRESS_SECONDS = 3.0
"""Longest wait for one address of a host before the next one is tried."""
IDLE_SECONDS = 4.0
"""Servers close an idle connection after 5 s (uvicorn). We close it earlier, so that none is lost during a request."""
DNS_CACHE_SECONDS = 60.0
"""How long resolved addresses are reused."""
# Servers and proxies limit a head to 8 to 64 KiB.
MAX_HEAD_BYTES = 1 << 16
DEFAULT_HEADERS = {"User-Agent": f"sophia/{__version__}", "Accept": "application/json", "Accept-Encoding": "identity"}
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Response:
    """Status, headers (names in lower case) and the whole body."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Route:
    """Where to connect and what to request.

    Attributes:
        host, port: Where to connect.
        name: The Host header and the name for TLS.
        path: The path; the whole URL for a proxy.
        through: The target of a proxy tunnel (`host:port`).
        authorization: The header for the proxy, or nothing.
    """

    host: str
    port: int
    name: str
    path: str
    tls: str | None = None
    through: str | None = None
    authorization: str = ""

    @property
    def connection_key(self) -> tuple[str, int, str | None, str | None]:
        """What two requests on the same connection have in common."""
        return self.host, self.port, self.tls, self.through


@functools.lru_cache(maxsize=1024)
def route_to(url: str, proxy: str | None = None) -> Route:
    """Returns the route to a URL, through a proxy if there is one: http asks the proxy, https uses a tunnel.

    Raises:
        ConnectError: no connection can be made to it.
    """
    try:
        return _route(url, proxy)
    except ValueError as error:  # an invalid port, or a name that cannot be resolved
        raise ConnectError(f"no connection: {url if not proxy else 'its proxy'} is not a valid address ({error})") from None


def _route(url: str, proxy: str | None) -> Route:
    to = urlsplit(url)
    host, port = to.hostname or "", to.port or DEFAULT_PORTS[to.scheme]
    written = f"[{host}]" if ":" in host else host.encode("idna").decode()
    name = written if port == DEFAULT_PORTS[to.scheme] else f"{written}:{port}"
    path = quote(to.path or "/", safe="/%:@!$&'()*+,;=~") + (f"?{to.query}" if to.query else "")
    tls = host if to.scheme == "https" else None
    if not proxy:
        return Route(host, port, name, path, tls)
    via = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if via.scheme != "http":
        raise ConnectError(f"no connection: a proxy at {via.scheme}:// is not supported; use one at http://")
    key = ""
    if via.username:
        pair = f"{unquote(via.username)}:{unquote(via.password or '')}"
        key = f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"
    if tls:
        return Route(via.hostname or "", via.port or 80, name, path, tls, f"{written}:{port}", key)
    return Route(via.hostname or "", via.port or 80, name, f"http://{name}{path}", None, None, key)


class Connection(asyncio.Protocol):
    """One connection. `send_request` returns the future of the response; one request at a time."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[Response] | None = None
        self.idle_since = 0.0

    def send_request(self, request: bytes, most: int) -> "asyncio.Future[Response]":
        """Sends a request. The future raises ConnectionLost, or ResponseTooLarge for more than `most` bytes."""
        self.answer = asyncio.get_running_loop().create_future()
        self.max_bytes, self.size, self.parts, self.has_started = most, 0, list[bytes](), False
        if self.transport is None or self.transport.is_closing():
            self.answer.set_exception(ConnectionLost("closed by the server before the request"))
        else:
            self.transport.write(request)
        return self.answer

    @property
    def is_reusable(self) -> bool:
        """Whether another request may be sent."""
        return self.transport is not None and not self.transport.is_closing()

    def abort(self) -> None:
        """Closes the connection at once."""
        if self.transport is not None:
            self.transport.abort()

    def _fail(self, error: Exception) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error)
        self.abort()

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        enable_keepalive(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        if self.answer is None or self.answer.done():
            self.abort()  # data without a request: the server is closing
            return
        self.size += len(data)
        if self.size > self.max_bytes:
            self._fail(ResponseTooLarge(f"longer than {self.max_bytes} bytes"))
            return
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(ConnectionLost(f"no HTTP: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        # A body without length ends where the server closes the connection (RFC 9112, section 6.3).
        ends_here = self.answer is not None and not self.answer.done() and self.has_started and self.open_end
        if ends_here and error is None:
            self._complete_response()
        self._fail(ConnectionLost(getattr(error, "strerror", None) or "closed by the server before the end of the response"))

    # Called by llhttp

    def on_message_begin(self) -> None:
        self.headers: dict[str, str] = {}
        if self.answer is None or self.answer.done():
            self.abort()  # a second response to one request: later ones cannot be matched

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.has_started = True
        self.open_end = "content-length" not in self.headers and "transfer-encoding" not in self.headers

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)

    def on_message_complete(self) -> None:
        if self.parser.get_status_code() >= 200:
            self._complete_response()
        else:
            self.has_started = False  # "100 Continue", "103 Early Hints": the response follows

    def _complete_response(self) -> None:
        if self.answer is None or self.answer.done():
            return
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.answer.set_result(Response(self.parser.get_status_code(), self.headers, body))
        # A server may answer before it has read the request, for example with 413; the rest must not be sent on.
        unsent = self.transport is not None and self.transport.get_write_buffer_size()
        if self.open_end or unsent or not self.parser.should_keep_alive():
            self.abort()


class _ProxyTunnel(asyncio.Protocol):
    """Asks a proxy for a tunnel. said: future of the head of its response; OSError when there is none."""

    def __init__(self, ask: bytes):
        self.ask, self.heard = ask, b""
        self.said: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self.ask)

    def data_received(self, data: bytes) -> None:
        self.heard += data
        if not self.said.done() and (b"\r\n\r\n" in self.heard or len(self.heard) > MAX_HEAD_BYTES):
            self.said.set_result(self.heard)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.said.done():
            self.said.set_exception(OSError("the proxy closed the connection"))


class ConnectionPool:
    """Connections to any number of servers, one per request in flight. Belongs to one event loop."""

    def __init__(self, headers: dict[str, str]):
        self.fields = "".join(f"{name}: {value}\r\n" for name, value in {**DEFAULT_HEADERS, **headers}.items())
        self.idle: dict[object, deque[Connection]] = {}
        self.resolved: dict[tuple[str, int], tuple[float, asyncio.Task[list[str]]]] = {}
        self.loop = asyncio.get_running_loop()
        self.resolvers = ThreadPoolExecutor(4)  # our own pool: closing the loop would wait for a silent name server

    async def get(self, url: str, proxy: str | None, seconds: float, most: int) -> Response:
        """Sends a GET; see `post`."""
        return await self._send("GET", route_to(url, proxy), b"", seconds, most)

    async def post(self, url: str, proxy: str | None, body: bytes, seconds: float, most: int) -> Response:
        """Sends a POST and returns the response, whatever its status.

        Args:
            url, proxy: Where to send it.
            body: The body.
            seconds: Longest time from now to the last byte.
            most: Longest response in bytes.

        Raises:
            ConnectError, ConnectionLost, ResponseTooLarge, TimeoutError: there is no response.
        """
        return await self._send("POST", route_to(url, proxy), body, seconds, most)

    async def _send(self, method: str, route: Route, body: bytes, seconds: float, most: int) -> Response:
        end = self.loop.time() + seconds
        own = "" if route.through else route.authorization
        head = (
            f"{method} {route.path} HTTP/1.1\r\nHost: {route.name}\r\n{own}{self.fields}Content-Length: {len(body)}\r\n\r\n"
        )
        request = head.encode("latin-1") + body
        if kept := self._idle_connection(route):
            try:
                return await self._send_on(kept, route, request, end, most)
            except ConnectionLost:
                if kept.size:
                    raise  # otherwise the server closed an idle connection before it read the request
        connection = await self._open_connection(route, min(end - self.loop.time(), CONNECT_SECONDS))
        return await self._send_on(connection, route, request, end, most)

    async def _send_on(self, connection: Connection, route: Route, request: bytes, end: float, most: int) -> Response:
        """Returns the response to a request on this connection, which is kept for the next one."""
        answer = connection.send_request(request, most)
        timer = self.loop.call_at(end, connection._fail, TimeoutError())
        try:
            return await answer
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            timer.cancel()
            if connection.is_reusable:
                connection.idle_since = self.loop.time()
                self.idle.setdefault(route.connection_key, deque()).append(connection)

    def _idle_connection(self, route: Route) -> Connection | None:
        """Returns the connection that was used last; closes those that were idle for long."""
        idle = self.idle.get(route.connection_key)
        while idle and (not idle[0].is_reusable or idle[0].idle_since < self.loop.time() - IDLE_SECONDS):
            idle.popleft().abort()
        while idle:
            connection = idle.pop()
            if connection.is_reusable:
                return connection
        return None

    async def _open_connection(self, route: Route, seconds: float) -> Connection:
        try:
            async with asyncio.timeout(seconds):
                return await self._connect_route(route)
        except TimeoutError:
            raise ConnectError(f"no connection within {seconds:.0f} s") from None
        except ssl.SSLError as error:
            raise tls_error(error) from None
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error or type(error).__name__
            raise ConnectError(f"no connection: {reason}") from None

    async def _connect_route(self, route: Route) -> Connection:
        """Opens a connection to the first address of the host that accepts it; the next call tries that one first."""
        tls = tls_context() if route.tls else None
        trouble = OSError(f"{route.host} has no address")
        addresses = await self._resolve_cached(route.host, route.port)
        for number, address in enumerate(list(addresses), 1):
            try:
                async with asyncio.timeout(NEXT_ADDRESS_SECONDS if number < len(addresses) else CONNECT_SECONDS):
                    if route.through:
                        made = await self._open_tunnel(route, address)
                    else:
                        to = (Connection, address, route.port)
                        _, made = await self.loop.create_connection(*to, ssl=tls, server_hostname=route.tls)
                addresses.sort(key=lambda other: other != address)
                return made
            except OSError as error:
                trouble = error
        raise trouble

    async def _resolve_cached(self, host: str, port: int) -> list[str]:
        """Resolves a host once for all connections that start at about the same time."""
        asked, task = self.resolved.get((host, port), (float("-inf"), None))
        failed = task is not None and task.done() and (task.cancelled() or task.exception() is not None)
        if task is None or failed or asked < self.loop.time() - DNS_CACHE_SECONDS:
            task = self.loop.create_task(self._resolve_host(host, port))
            self.resolved[host, port] = self.loop.time(), task
        return await asyncio.shield(task)

    async def _resolve_host(self, host: str, port: int) -> list[str]:
        asked = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await self.loop.run_in_executor(self.resolvers, asked)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    async def _open_tunnel(self, route: Route, address: str) -> Connection:
        """Opens a TLS connection through a proxy (CONNECT)."""
        ask = f"CONNECT {route.through} HTTP/1.1\r\nHost: {route.through}\r\n{route.authorization}\r\n"
        transport, proxy = await self.loop.create_connection(
            lambda: _ProxyTunnel(ask.encode("latin-1")), address, route.port
        )
        try:
            status = (await proxy.said).split(b"\r\n")[0].split(maxsplit=1)[1:]
            if not status or not status[0].startswith(b"200"):
                raise OSError(f"the proxy {route.host}:{route.port} says {b''.join(status)[:80].decode('latin-1')}")
            connection = Connection()
            made = await self.loop.start_tls(transport, connection, tls_context(), server_hostname=route.tls)
            assert made is not None
            connection.connection_made(made)
            return connection
        except BaseException:
            transport.abort()
            raise

    def close(self) -> None:
        """Closes the idle connections without waiting for DNS."""
        self.resolvers.shutdown(wait=False, cancel_futures=True)
        for idle in self.idle.values():
            while idle:
                idle.pop().abort()


def enable_keepalive(made: socket.socket) -> None:
    """Detects within two minutes that the other end vanished, as when a node loses power. A response may take an hour,
    and its timeout even longer.
    """
    with contextlib.suppress(OSError):  # the socket may be gone already
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
