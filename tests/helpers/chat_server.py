"""An OpenAI-compatible chat server for tests. Its answers are a function of the request; its faults are set by the test.

It runs in a thread of the test, on a real socket. Fault number i applies to the i-th request; later requests succeed.
"""

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from aiohttp import web

from helpers.commands import records_of, sophia

STALL_SECONDS = 60.0


def answer_of(body: dict[str, Any]) -> tuple[str, int]:
    """Returns a text and its length in tokens, determined by the messages and the seed."""
    digest = hashlib.sha256(json.dumps([body["messages"], body["seed"]], sort_keys=True).encode()).hexdigest()
    return f"<think>\n{digest[:12]}\n</think>\n\\boxed{{{int(digest[:2], 16) % 4}}}", 5 + int(digest[2:4], 16)


def completion(body: dict[str, Any], **message: Any) -> dict[str, Any]:
    text, tokens = answer_of(body)
    cut = tokens > body.get("max_tokens", tokens)
    text, tokens = (text[:10], body["max_tokens"]) if cut else (text, tokens)
    finish = "length" if cut else "stop"
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    return {"model": body["model"], "choices": [choice], "usage": {"completion_tokens": tokens}}


class ChatServer:
    """`with ChatServer(faults) as server` serves at `server.url` and keeps the bodies that it answered in `served`.

    Args:
        poison: A text on which the engine always fails, with the fault `poisonous`.
        models: The fault of the list of models.
        says: The answer to a request without a fault, instead of `answer_of`.
    """

    def __init__(
        self,
        faults: Iterable[str] = (),
        model: str | None = "m",
        delay: float = 0.0,
        owner: str = "vllm",
        context: int = 1 << 20,
        poison: str = "",
        poisonous: str = "broken",
        models: str = "",
        says: Callable[[dict[str, Any]], str] | None = None,
    ):
        self.says = says
        self.context, self.poison, self.poisonous, self.models = context, poison, poisonous, models
        self.other_names: list[str] = []
        self.arrivals: dict[int, list[float]] = {}
        self.faults, self.model, self.delay, self.owner = iter(faults), model, delay, owner
        self.served: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.arrived = self.in_flight = self.most_in_flight = self.port = 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "ChatServer":
        self.thread.start()
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self._start(), self.loop).result()

    def stop(self) -> None:
        """Simulates a server that dies: connections are cut, new ones are refused. `start` restarts it on the same port."""
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result()

    async def _start(self) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_post("/v1/chat/completions", self._chat)
        self.runner = web.AppRunner(app, shutdown_timeout=0.0, handler_cancellation=True)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port, backlog=4096, reuse_address=True)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def _stop(self) -> None:
        await self.runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, request: web.Request) -> web.Response:
        if self.models:
            return await FAULTS[self.models](request, {"model": "m", "messages": [], "seed": 0})
        if self.model is None:
            return web.json_response({"error": {"message": "no such page"}}, status=404)
        entry = {"owned_by": self.owner, "max_model_len": self.context}
        return web.json_response({"data": [{"id": name, **entry} for name in [self.model, *self.other_names]]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._answered(request)
        finally:
            self.in_flight -= 1

    async def _answered(self, request: web.Request) -> web.StreamResponse:
        self.arrived += 1
        body = await request.json()
        poisoned = self.poison and self.poison in str(body["messages"])
        fault = self.poisonous if poisoned else next(self.faults, "well")
        self.arrivals.setdefault(body.get("seed"), []).append(time.monotonic())
        self.headers.append(dict(request.headers))
        if self.delay:
            await asyncio.sleep(self.delay)
        if fault == "well":
            self.served.append(body)
            return web.json_response(completion(body, **({"content": self.says(body)} if self.says else {})))
        return await FAULTS[fault](request, body)


async def stall(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    await asyncio.sleep(STALL_SECONDS)
    return web.json_response(completion(body))


async def half(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    whole = json.dumps(completion(body)).encode()
    response = web.StreamResponse(headers={"Content-Length": str(len(whole))})
    await response.prepare(request)
    await response.write(whole[: len(whole) // 2])
    assert request.transport is not None
    request.transport.close()
    return response


async def close(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    raise asyncio.CancelledError


async def no_json(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.Response(text="<html>bad gateway</html>", content_type="application/json")


async def two_choices(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    answer = completion(body)
    return web.json_response({**answer, "choices": answer["choices"] * 2})


async def no_usage(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.json_response({"choices": completion(body)["choices"]})


async def busy(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "0.2"})


async def busy_for_long(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.Response(status=429, headers={"Retry-After": "300"})


async def busy_until_an_odd_date(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.Response(status=429, headers={"Retry-After": "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"})


async def broken_for_a_while(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.Response(status=500, headers={"Retry-After": "2"})


async def not_found(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.Response(status=404, text="default backend - 404")


async def endless(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * (1 << 20))


async def drip(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(1)


async def no_tokens(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.json_response({**completion(body), "usage": {"completion_tokens": 0}})


async def finish_of_another_type(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    answer = completion(body)
    answer["choices"][0]["finish_reason"] = ["stop"]
    return web.json_response(answer)


async def broken(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.json_response({"detail": "engine died"}, status=500)


async def starting(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.Response(text="no upstream", status=503)


async def forbidden(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.json_response({"error": {"message": "wrong key"}}, status=401)


async def flagged(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.json_response({"error": {"message": "Your input was flagged for: violence"}}, status=403)


async def too_long(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    message = "This model's maximum context length is 1024 tokens. However, you requested 2000 tokens"
    return web.json_response({"error": {"message": message}}, status=400)


async def too_long_with_limit(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return await too_long(request, body) if "max_tokens" in body else web.json_response(completion(body))


async def invalid(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.json_response({"error": {"message": "top_p is odd"}}, status=400)


async def wants_new_limit(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    if "max_tokens" not in body:
        return web.json_response(completion(body))
    message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    return web.json_response({"error": {"message": message}}, status=400)


async def wants_no_seed(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    if "seed" not in body:
        return web.json_response(completion({**body, "seed": 0}))
    detail = [{"loc": ["body", "seed"], "msg": "extra fields not permitted", "type": "value_error.extra"}]
    return web.json_response({"detail": detail}, status=422)


async def refuses_by_content(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    kind = ("violence", "medicine", "law", "politics")[body["seed"] % 4]
    return web.json_response({"error": {"message": f"the prompt is about {kind}"}}, status=400)


async def no_credit(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.json_response({"error": {"message": "Insufficient credits"}}, status=402)


async def error_in_200(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.json_response({"error": {"message": "This model does not support image input", "code": 400}})


def finished(reason: str, **message: Any) -> Any:
    async def respond(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        answer = completion(body, **message)
        answer["choices"][0]["finish_reason"] = reason
        return web.json_response(answer)

    return respond


FAULTS = {
    "busy_for_long": busy_for_long,
    "busy_until_an_odd_date": busy_until_an_odd_date,
    "broken_for_a_while": broken_for_a_while,
    "not_found": not_found,
    "endless": endless,
    "drip": drip,
    "no_tokens": no_tokens,
    "finish_of_another_type": finish_of_another_type,
    "stall": stall,
    "half": half,
    "close": close,
    "no_json": no_json,
    "two_choices": two_choices,
    "no_usage": no_usage,
    "busy": busy,
    "broken": broken,
    "starting": starting,
    "forbidden": forbidden,
    "flagged": flagged,
    "too_long": too_long,
    "too_long_with_limit": too_long_with_limit,
    "invalid": invalid,
    "wants_new_limit": wants_new_limit,
    "wants_no_seed": wants_no_seed,
    "no_credit": no_credit,
    "refuses_by_content": refuses_by_content,
    "error_in_200": error_in_200,
    "filtered": finished("content_filter", content=None),
    "tool": finished("tool_calls", content=None, tool_calls=[{"id": "1"}]),
    "empty": finished("stop", content=""),
    "cut": finished("length", content="half of"),
    "set_apart": finished("stop", content="\n\nso \\boxed{7}", reasoning_content="It is\nseven.\n"),
    "set_apart_cut": finished("length", content=None, reasoning="It is"),
    "says_correct": finished("stop", content="They agree.\nVerdict: correct"),
    "opened_in_prompt": finished("stop", content="It is seven.\n</think>\n\n\\boxed{7}"),
}
PASSING = (
    "half", "close", "no_json", "two_choices", "no_usage", "busy", "broken", "starting", "no_tokens",
    "finish_of_another_type", "busy_until_an_odd_date", "endless",
)  # fmt: skip
"""Faults after which the same request, sent again, is answered; `stall` is another, where timeouts are short."""


def reason_with(
    caption_dir: Path, *servers: ChatServer | str, code: int = 0, options: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    urls = [part for server in servers for part in ("--base-url", server if isinstance(server, str) else server.url)]
    done = sophia("reason", "caps.jsonl", "-n", "2", "--llm", "m", *urls, *options, cwd=caption_dir, code=code)
    return records_of(done.stdout)
