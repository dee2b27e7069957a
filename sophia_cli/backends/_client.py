"""Many requests to a fleet of chat servers at once: one event loop, no thread and no task more than is in flight.

A request that fails is sent again, to whoever is well by then, up to `retries` times; what is the request's own fault (too
long for the model, refused) is not. When nobody in the fleet answers any more, what waits fails and the step ends.
"""

import asyncio
import math
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp

from sophia_cli.arrivals import Arrivals
from sophia_cli.backends._chat import Unusable, body_of, complaint, exceeds_context, outcome_of
from sophia_cli.backends._fleet import Fleet, Server, Trouble
from sophia_cli.errors import RecordError, SophiaError
from sophia_cli.sampling import Completion, Failure, Job

AHEAD = 256
"""Jobs that are taken beyond those in flight, so that a free place never waits for the next."""
SECONDS_BEFORE, SECONDS_A_TOKEN = 120.0, 0.2
"""A request's longest: time in the server's queue, and twice what a loaded server takes for a token (design.md: 88 ms)."""
CONNECT_SECONDS = 30.0
IDLE_SECONDS = 4.0
"""Servers close an idle connection after 5 s (uvicorn); one that we close before is never lost under a request."""
OWN_MACHINE = ("localhost", "127.0.0.1", "::1")
LONGEST_ASKED = 600.0
"""Seconds that a Retry-After may ask for."""
SICK, BUSY, AGAIN = {502, 503, 504}, {429}, {408, 409, 425, 500}
KEYS = {401: "check OPENAI_API_KEY", 403: "check OPENAI_API_KEY", 404: "check --base-url and the model's name"}


class Again(Exception):
    """The request is to be sent again."""

    def __init__(self, trouble: Trouble):
        super().__init__(trouble.reason)
        self.trouble = trouble


@dataclass
class Try:
    """A job under way: how often it was sent, and whether its body holds `max_tokens`."""

    job: Job
    tries: int = 0
    bounded: bool = True


@dataclass(frozen=True)
class Manners:
    """How requests are made: the model's name there, how many at once, the longest wait, how often again, images how.

    engine: who answers (`vllm`, `sglang`), if that is known. context: the most tokens that a prompt and its answer have.
    """

    model: str
    concurrency: int
    timeout: float | None = None
    retries: int = 8
    images: str = "data"
    engine: str = ""
    context: float = math.inf
    headers: tuple[tuple[str, str], ...] = ()

    def seconds(self, max_tokens: int) -> float:
        """The longest that a request may take; it follows the token budget unless the user says otherwise."""
        return self.timeout or SECONDS_BEFORE + SECONDS_A_TOKEN * max_tokens


class Client:
    """Streams jobs through a fleet. All of it runs in the thread that iterates over `stream`, but for taking jobs."""

    def __init__(self, fleet: Fleet, manners: Manners):
        self.fleet, self.manners = fleet, manners
        self.waiting: deque[Try] = deque()
        self.done: list[tuple[Job, Completion | Failure]] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.under_way = self.retried = self.postponed = 0
        self.over = False
        self.input_fault: Exception | None = None
        self.fault: Exception | None = None
        self.gone: SophiaError | None = None
        self.timer: asyncio.TimerHandle | None = None

    def stream(self, jobs: Arrivals[Job]) -> Iterator[tuple[Job, Completion | Failure]]:
        """Every job once, with what came of it, as it comes. Raises what the jobs' iterator raised, and SophiaError."""
        with asyncio.Runner() as runner:
            runner.run(self._open(jobs))
            try:
                while outcomes := runner.run(self._some()):
                    yield from outcomes
            finally:
                runner.run(self._close())
        if fault := self.fault or self.input_fault:
            raise fault

    def status(self) -> str:
        """For the progress line: `64 in flight, 3 retries, 3/4 servers well, …`."""
        parts = [f"{self.under_way} in flight"]
        if self.retried:
            parts.append(f"{self.retried} retries")
        if health := self.fleet.health(time.monotonic()):
            parts.append(health)
        return ", ".join(parts)

    async def _open(self, jobs: Arrivals[Job]) -> None:
        self.loop = asyncio.get_running_loop()
        self.wake, self.hungry = asyncio.Event(), asyncio.Event()
        self.pool = ThreadPoolExecutor(1)
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json", **dict(self.manners.headers)},
        )
        self.proxies = {server.url: proxy_of(server.url) for server in self.fleet.servers}
        self.feeding = asyncio.create_task(self._feed(jobs))

    async def _close(self) -> None:
        for task in (self.feeding, *self.tasks):
            task.cancel()
        await asyncio.gather(self.feeding, *self.tasks, return_exceptions=True)
        if self.timer:
            self.timer.cancel()
        await self.session.close()
        self.pool.shutdown(wait=False, cancel_futures=True)

    async def _some(self) -> list[tuple[Job, Completion | Failure]]:
        """What is done by now, at least one; nothing when all is done."""
        while not self.done and not self._finished():
            self.wake.clear()
            await self.wake.wait()
        outcomes, self.done = self.done, []
        return outcomes

    def _finished(self) -> bool:
        """Whether all is done, or no server will ever take what is left."""
        return self.fault is not None or (self.over and not (self.waiting or self.under_way or self.postponed))

    async def _feed(self, jobs: Arrivals[Job]) -> None:
        """Keeps `AHEAD` jobs waiting. The thread that takes them blocks where the step's input does."""
        try:
            while batch := await self.loop.run_in_executor(self.pool, jobs.take, AHEAD, 0.0):
                if self.gone:
                    raise self.gone
                context = self.manners.context
                self.waiting.extend(Try(job, bounded=job.request.sampling.max_tokens < context) for job in batch)
                self._dispatch()
                while len(self.waiting) >= AHEAD // 2:
                    self.hungry.clear()
                    await self.hungry.wait()
        except Exception as fault:  # noqa: BLE001  (raised again when what is in flight is done)
            self.input_fault = fault
        self.over = True
        self.wake.set()

    def _dispatch(self) -> None:
        """Sends what waits while there is room and a server that takes it; sees to it that it is called again in time."""
        now = self.loop.time()
        while self.waiting and self.under_way < self.manners.concurrency:
            server = self.fleet.pick(now)
            if server is None:
                break
            attempt = self.waiting.popleft()
            self.under_way += 1
            task = self.loop.create_task(self._send(attempt, server))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        if self.waiting and not self.under_way and self.fleet.dead():
            self._nobody_left()
        if len(self.waiting) < AHEAD // 2:
            self.hungry.set()
        chance = self.fleet.next_chance(now) if self.waiting else None
        if chance is not None and self.timer is None:
            self.timer = self.loop.call_later(chance + 0.001, self._on_time)

    def _on_time(self) -> None:
        self.timer = None
        self._dispatch()

    async def _send(self, attempt: Try, server: Server) -> None:
        """One request from its sending to its outcome, or back to those that wait."""
        sent_at = self.loop.time()
        attempt.tries += 1
        try:
            outcome = await self._ask(attempt, server)
            if outcome is not None:
                self.done.append((attempt.job, outcome))
            else:
                self.waiting.appendleft(attempt)
            self.fleet.answered(server)
        except Again as again:
            self.fleet.failed(server, sent_at, self.loop.time(), again.trouble)
            self._again(attempt, server, again.trouble)
        except Exception as fault:  # noqa: BLE001  (raised again by `stream`; a task that dies silently would be waited for)
            self.fault = fault
        self.under_way -= 1
        self._dispatch()
        self.wake.set()

    async def _ask(self, attempt: Try, server: Server) -> Completion | Failure | None:
        """The outcome of one request; None when it is to be asked again without `max_tokens`. Raises Again, SophiaError."""
        manners, request = self.manners, attempt.job.request
        try:
            body = body_of(request, manners.model, manners.images, manners.engine, attempt.bounded)
        except RecordError as error:
            return Failure(str(error))
        limit = manners.seconds(request.sampling.max_tokens)
        timeout = aiohttp.ClientTimeout(total=limit, connect=min(CONNECT_SECONDS, limit))
        try:
            post = self.session.post(server.endpoint, data=body, timeout=timeout, proxy=self.proxies[server.url])
            async with post as answer:
                status, headers, text = answer.status, answer.headers, await answer.read()
        except TimeoutError:
            raise Again(Trouble(f"no answer within {limit:.0f} s")) from None
        except aiohttp.ClientConnectorError as error:
            raise Again(Trouble(f"no connection: {getattr(error, 'strerror', None) or error}", sick=True)) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Again(Trouble(f"connection lost: {str(error) or type(error).__name__}")) from None
        if status == 200:
            try:
                return outcome_of(text)
            except Unusable as unusable:
                raise Again(Trouble(f"unusable answer: {unusable}")) from None
        return self._refused(attempt, server, status, complaint(status, text), headers.get("Retry-After"))

    def _refused(self, attempt: Try, server: Server, status: int, message: str, retry_after: str | None) -> Failure | None:
        """What an answer of another status than 200 means for its request. Raises Again, SophiaError."""
        if status in BUSY | SICK | AGAIN or status >= 500:
            raise Again(Trouble(message, status in BUSY | SICK, status in BUSY, seconds_of(retry_after)))
        if status in KEYS:
            raise SophiaError(f"{server.url}: refuses every request ({message}); {KEYS[status]}")
        if exceeds_context(message):
            if attempt.bounded and attempt.job.request.sampling.max_tokens > 1:
                attempt.bounded = False  # prompt and limit together are too long: the context's end is the nearer limit
                return None
            return Failure(f"context length: {message}")
        return Failure(f"refused: {message}")

    def _again(self, attempt: Try, server: Server, trouble: Trouble) -> None:
        """Puts a request back, or gives it up after `retries`; gives all up when nobody answers any more."""
        if attempt.tries > self.manners.retries:
            self.done.append((attempt.job, Failure(f"{server.url}: {trouble.reason} ({attempt.tries} tries)")))
        elif trouble.sick or server.rests:
            self.retried += 1
            self.waiting.appendleft(attempt)
        else:
            self.retried += 1
            self.postponed += 1
            self.loop.call_later(self.fleet.pause(attempt.tries), self._put_back, attempt)
        if self.fleet.dead():
            self._nobody_left()

    def _put_back(self, attempt: Try) -> None:
        self.postponed -= 1
        self.waiting.appendleft(attempt)
        self._dispatch()
        self.wake.set()

    def _nobody_left(self) -> None:
        """Fails what waits. Should there be more to come, the step ends: typed again, it goes on."""
        troubles = "; ".join(f"{server.url}: {server.trouble}" for server in self.fleet.servers[:3])
        self.gone = SophiaError(f"no server answers ({troubles}); start one and type the command again, it continues")
        self.done += [(attempt.job, Failure(f"no server answers ({troubles})")) for attempt in self.waiting]
        self.waiting.clear()
        self.wake.set()


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a server, none on this machine; aiohttp's `trust_env` asks every time."""
    address = urlsplit(url)
    if address.hostname in OWN_MACHINE:
        return None
    if urllib.request.proxy_bypass(address.hostname or ""):
        return None
    return urllib.request.getproxies().get(address.scheme)


def seconds_of(retry_after: str | None) -> float:
    """A Retry-After, a number of seconds or a date, as seconds from now; 0 where there is none to read."""
    if not retry_after:
        return 0.0
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_ASKED) if seconds == seconds else 0.0
