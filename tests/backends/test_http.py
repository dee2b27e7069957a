"""Tests of the HTTP client against servers that send arbitrary bytes, on real sockets; TLS and proxies too."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_cli.backends._openai import http
from sophia_cli.backends._openai.http import ConnectionPool, Response, route_to
from sophia_cli.backends._openai.http_errors import ConnectError, ConnectionLost, ResponseTooLarge

Served = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SAID = b'{"text": "7"}'
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nX-Word: a\r\n\r\n" + SAID


async def heard(reader: asyncio.StreamReader) -> bytes:
    """Reads one request, head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
    return head + await reader.readexactly(length)


def answers(*pieces: bytes, close: bool = False, again: bool = True, seen: list[bytes] | None = None) -> Served:
    """Starts a server that sends these pieces, one after the other, to each request; `seen` holds connections and
    requests.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if seen is not None:
            seen.append(b"connected")
        try:
            while True:
                request = await heard(reader)
                if seen is not None:
                    seen.append(request)
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.001)
                if close:
                    writer.close()
                    return
                if not again:
                    await asyncio.sleep(60)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return serve


def posts(serve: Served, count: int = 1, seconds: float = 5.0, most: int = 10_000, **how: Any) -> list[Response | Exception]:
    """Returns the results of this many posts, sent in turn."""

    async def work() -> list[Response | Exception]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=how.get("tls"))
        port = server.sockets[0].getsockname()[1]
        pool = ConnectionPool({"Authorization": "Bearer key"})
        url = how.get("url", "http://127.0.0.1:{port}/v1/chat").format(port=port)
        proxy = how.get("proxy", "").format(port=port) or None
        found: list[Response | Exception] = []
        for _ in range(count):
            try:
                found.append(await pool.post(url, proxy, b'{"a": 1}', seconds, most))
            except (ConnectError, ConnectionLost, ResponseTooLarge, TimeoutError) as error:
                found.append(error)
            await asyncio.sleep(how.get("between", 0.0))
        pool.close()
        server.close()
        return found

    return asyncio.run(work())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_answer_is_the_same_however_it_is_cut(data: st.DataObject) -> None:
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Word: a\r\n\r\n6\r\n"
        + SAID[:6]
        + b"\r\n7\r\n"
        + SAID[6:]
        + b"\r\n0\r\n\r\n"
    )
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    to_the_end = b"HTTP/1.1 200 OK\r\nX-Word: a\r\n\r\n" + SAID
    whole = data.draw(st.sampled_from([WHOLE, chunked, early + WHOLE, early + chunked, to_the_end]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    for answer in posts(answers(*pieces, close=whole == to_the_end), count=2):
        assert isinstance(answer, Response) and (answer.status, answer.body) == (200, SAID)
        assert answer.headers["x-word"] == "a"


def test_a_connection_is_kept_for_the_next_request_and_carries_all_of_it() -> None:
    seen: list[bytes] = []
    assert len([answer for answer in posts(answers(WHOLE, seen=seen), 3) if isinstance(answer, Response)]) == 3
    assert seen.count(b"connected") == 1 and len(seen) == 4
    first, _, rest = seen[1].partition(b"\r\n")
    assert (
        first == b"POST /v1/chat HTTP/1.1"
        and b"Authorization: Bearer key\r\n" in rest
        and rest.endswith(b'\r\n\r\n{"a": 1}')
    )


@pytest.mark.parametrize("how", ["says so", "does so", "is old"])
def test_a_connection_that_a_server_closes_is_not_used_again(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    head = WHOLE.replace(b"X-Word: a", b"Connection: close") if how == "says so" else WHOLE
    if how == "is old":
        monkeypatch.setattr(http, "IDLE_SECONDS", 0.01)
    found = posts(answers(head, close=how == "does so", seen=seen), 3, between=0.05)
    assert all(isinstance(answer, Response) for answer in found) and seen.count(b"connected") == 3


@pytest.mark.parametrize(
    ("said", "close", "trouble"),
    [
        (b"", True, ConnectionLost),
        (WHOLE[:-3], True, ConnectionLost),
        (WHOLE[:20], True, ConnectionLost),
        (b"HTTP/1.1 100 Continue\r\n\r\n", True, ConnectionLost),
        (b"SSH-2.0-OpenSSH_9.6\r\n", False, ConnectionLost),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", False, ConnectionLost),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: ws\r\n\r\n", False, ConnectionLost),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"a" * 100_000, False, ResponseTooLarge),
        (b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 100_000, False, ResponseTooLarge),
        (b"HTTP/1.1 200 OK\r\n" + b"X-More: a\r\n" * 10_000, False, ResponseTooLarge),
        (WHOLE[:-3], False, TimeoutError),
    ],
)
def test_no_whole_answer_is_an_error_with_a_name(said: bytes, close: bool, trouble: type[Exception]) -> None:
    (found,) = posts(answers(said, close=close, again=False), seconds=1.0)
    assert isinstance(found, trouble)


def test_a_second_answer_to_one_request_is_never_taken_for_the_next() -> None:
    other = WHOLE.replace(b"7", b"8")
    for pieces in ((WHOLE + other,), (WHOLE, other)):
        found = posts(answers(*pieces), 3, between=0.02)
        assert [answer.body for answer in found if isinstance(answer, Response)] == [SAID] * 3


def test_a_refused_connection_and_an_unknown_host_are_connect_errors() -> None:
    for url in (
        "http://127.0.0.1:9/v1",
        "http://no-such-host.invalid/v1",
        "http://gpu1..cluster/v1",
        f"http://{'a' * 64}.b/v1",
    ):
        (found,) = posts(answers(WHOLE), url=url)
        assert isinstance(found, ConnectError) and "no connection" in str(found)


def test_a_name_is_looked_up_once_for_many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> int:
        asked, real = [], socket.getaddrinfo

        def counted(host: Any, *rest: Any, **more: Any) -> Any:
            asked.append(host)
            return real(host, *rest, **more)

        monkeypatch.setattr(socket, "getaddrinfo", counted)
        server = await asyncio.start_server(answers(WHOLE), "127.0.0.1", 0)
        url = f"http://localhost:{server.sockets[0].getsockname()[1]}/v1"
        pool = ConnectionPool({})
        await asyncio.gather(*(pool.post(url, None, b"", 5, 1000) for _ in range(50)))
        pool.close()
        server.close()
        return asked.count("localhost")

    assert asyncio.run(work()) == 1


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Creates the certificate authority of the servers; our side trusts it, as with SSL_CERT_FILE."""
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    monkeypatch.setattr(http, "tls_context", lambda: context)
    return authority


def tls_of(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_tls_is_spoken_and_a_certificate_for_another_name_refused(authority: trustme.CA) -> None:
    url = "https://localhost:{port}/v1"
    (found,) = posts(answers(WHOLE), url=url, tls=tls_of(authority, "localhost"))
    assert isinstance(found, Response) and found.body == SAID
    (found,) = posts(answers(WHOLE), url=url, tls=tls_of(authority, "other.example"))
    assert isinstance(found, ConnectError) and "certificate" in str(found).lower()


def test_a_proxy_is_asked_for_http_and_tunnels_https(authority: trustme.CA) -> None:
    seen: list[bytes] = []
    (found,) = posts(answers(WHOLE, seen=seen), url="http://models.example/v1", proxy="http://me:a%40b@127.0.0.1:{port}")
    assert isinstance(found, Response) and seen[1].startswith(
        b"POST http://models.example/v1 HTTP/1.1\r\nHost: models.example\r\n"
    )
    assert b"Proxy-Authorization: Basic bWU6YUBi\r\n" in seen[1]
    inner = tls_of(authority, "models.example")

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.start_tls(inner)
        await answers(WHOLE, seen=seen)(reader, writer)

    seen.clear()
    found_all = posts(tunnel, 2, url="https://models.example/v1", proxy="http://127.0.0.1:{port}")
    assert [getattr(answer, "body", answer) for answer in found_all] == [SAID] * 2
    assert seen[0].startswith(b"CONNECT models.example:443 HTTP/1.1\r\n") and len(seen) == 4

    async def closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")

    (refused,) = posts(closed, url="https://models.example/v1", proxy="http://127.0.0.1:{port}")
    assert isinstance(refused, ConnectError) and "407" in str(refused)


def test_addresses_are_written_as_servers_want_them() -> None:
    assert route_to("http://[::1]:8000/v1").name == "[::1]:8000"
    assert route_to("https://bücher.example/v1/a b?x=1").name == "xn--bcher-kva.example"
    assert route_to("https://bücher.example/v1/a b?x=1").path == "/v1/a%20b?x=1"
    assert route_to("https://h/v1").port == 443 and route_to("http://h/v1").port == 80
    with pytest.raises(ConnectError):
        route_to("http://h/v1", "socks5://proxy:1080")


def test_a_kept_connection_that_the_server_has_closed_meanwhile_costs_nothing() -> None:
    """The server closes the idle connection as the next request arrives; the request is sent again on a new connection."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await heard(reader)
        writer.write(WHOLE)
        await reader.read(1)
        writer.transport.abort()

    assert all(isinstance(answer, Response) for answer in posts(serve, 4)) and connections == 4


def test_an_answer_before_the_end_of_a_large_upload_ends_its_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(WHOLE.replace(b"200 OK", b"413 Too Large"))
        await asyncio.sleep(60)

    async def work() -> list[int]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        pool = ConnectionPool({})
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        found = [(await pool.post(url, None, b"a" * 20_000_000, 5.0, 1000)).status for _ in range(3)]
        pool.close()
        server.close()
        return found

    assert asyncio.run(work()) == [413] * 3


def test_a_silent_address_does_not_block_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "NEXT_ADDRESS_SECONDS", 0.2)

    async def work() -> list[str]:
        server = await asyncio.start_server(answers(WHOLE), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        pool, tried, real = ConnectionPool({}), list[str](), asyncio.get_running_loop().create_connection

        async def resolve(host: str, port: int) -> list[str]:
            return ["192.0.2.1", "127.0.0.1"]

        async def connect(made: Any, host: str, *rest: Any, **more: Any) -> Any:
            tried.append(host)
            await asyncio.sleep(60 if host == "192.0.2.1" else 0)
            return await real(made, host, *rest, **more)

        monkeypatch.setattr(pool, "_resolve_host", resolve)
        monkeypatch.setattr(pool.loop, "create_connection", connect)
        await pool.post(f"http://gpu:{port}/v1", None, b"", 5.0, 1000)
        await asyncio.gather(*(pool.post(f"http://gpu:{port}/v1", None, b"", 5.0, 1000) for _ in range(3)))
        pool.close()
        server.close()
        return tried

    assert asyncio.run(work()) == ["192.0.2.1", "127.0.0.1", "127.0.0.1", "127.0.0.1"]
