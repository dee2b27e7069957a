"""A chat server that returns a fixed answer, immediately or after a delay, so that only the client is measured.

    python benchmarks/instant_server.py PORT [SECONDS]

Answers `/models` and chat completions alike, and only looks for the end of each request.
"""

import asyncio
import json
import sys

TEXT = "<think>\n" + "word " * 100 + "\n</think>\n\\boxed{7}"
ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 110, "total_tokens": 120},
    "data": [{"id": "m", "object": "model", "owned_by": "nobody"}],
}
BODY = json.dumps(ANSWER).encode()
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


class Connection(asyncio.Protocol):
    """One connection: finds the end of each request and answers it."""

    def __init__(self, seconds: float):
        self.seconds, self.unread = seconds, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.loop = transport, asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self.unread += data
        while (end := self.unread.find(b"\r\n\r\n")) >= 0:
            _, named, rest = self.unread[:end].lower().partition(b"content-length:")
            length = int(rest.split(b"\r\n", 1)[0]) if named else 0
            if len(self.unread) < end + 4 + length:
                return
            self.unread = self.unread[end + 4 + length :]
            if self.seconds:
                self.loop.call_later(self.seconds, self.answer)
            else:
                self.answer()

    def answer(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(RESPONSE)


async def serve(port: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(seconds), "127.0.0.1", port, backlog=20_000)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0))
