"""Sends many requests to a fleet of chat servers: one event loop in its own thread, one task per request in flight.

A failed request is retried, on any healthy server, up to `retries` times. A request that is at fault itself (too long
for the model, refused) is not retried. When no server answers any more, the waiting requests fail and the step ends.
The loop never waits for the consumer: while too many outcomes are untaken, no new request is sent.
"""

import asyncio
import contextlib
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import orjson

from sophia_cli.backends._openai.chat_api import RequestFields, has_images, request_body
from sophia_cli.backends._openai.chat_response import (
    ErrorResponse,
    OddResponse,
    UnusableResponse,
    error_message,
    exceeds_context,
    parse_response,
)
from sophia_cli.backends._openai.http import (
    ConnectError,
    ConnectionLost,
    ConnectionPool,
    Response,
    ResponseTooLarge,
    UntrustedCertificate,
)
from sophia_cli.backends._openai.load_balancer import LoadBalancer, RequestFailure, ServerState
from sophia_cli.backends._openai.proxy import find_proxy
from sophia_cli.backends._openai.retry_after import parse_retry_after
from sophia_cli.errors import RecordError, SophiaError
from sophia_cli.inference.types import Completion, Failure, Job
from sophia_cli.runtime.progress import log_line
from sophia_cli.runtime.read_ahead import Channel, ReadAhead

READ_AHEAD_JOBS = 256
"""Jobs taken beyond those in flight, so that a free slot never waits for the next job."""
HAND_OVER_SECONDS = 0.02
"""How long outcomes are collected before the consumer is woken. Waking a thread for each one took a fifth of the CPU."""
MAX_UNTAKEN = 2048
"""Untaken outcomes above which no new request is sent."""
BASE_TIMEOUT_SECONDS, TIMEOUT_SECONDS_PER_TOKEN = 120.0, 0.2
"""Default timeout: time in the server's queue, plus twice what a loaded server takes per token (88 ms, design.md)."""
# A server that is still loading its model accepts connections but does not respond; requests then wait for it.
DISCOVERY_SECONDS = 10.0
MAX_BUSY_RETRIES = 10
"""How often unhealthy servers may turn a request away for each of its own tries."""
MAX_RESPONSE_BYTES, MAX_BYTES_PER_TOKEN = 1 << 20, 64
# 502 to 504 come from a proxy or a server that restarts; 408, 409, 425 and 500 may be the request's own fault.
UNHEALTHY_STATUSES, BUSY_STATUSES, RETRY_STATUSES = {502, 503, 504}, {429}, {408, 409, 425, 500}
STATUS_HINTS = {
    401: "check {key}",
    402: "add credit to the account of {key}",
    403: "check {key}",
    404: "check --base-url and the model's name",
}
# OpenAI: "Unrecognized request argument supplied: seed"; FastAPI: {"loc": ["body", "seed"], "msg": "extra fields …"}
SEED_REFUSED = re.compile(
    r"\bseed\b.*(?:support|permit|allow|unrecogni|unknown|unexpected|extra|invalid)"
    r"|(?:support|permit|allow|unrecogni|unknown|unexpected|extra|invalid).*\bseed\b",
    re.IGNORECASE | re.DOTALL,
)
# Records that are all refused before any is answered: then the model or the settings are wrong, not the records.
MAX_EARLY_REFUSALS = 20

Outcome = tuple[Job, Completion | Failure]


class RetryableError(Exception):
    """The request must be sent again."""

    def __init__(self, trouble: RequestFailure):
        super().__init__(trouble.reason)
        self.trouble = trouble


class RequestsRefused(SophiaError):
    """No request will be answered: the key, the address or the model is wrong."""


@dataclass
class PendingRequest:
    """A job in progress: its own failures, how often servers turned it away, and which fields were sent."""

    job: Job
    failures: int = 0
    busy_retries: int = 0
    sends_max_tokens: bool = True
    fields: RequestFields = RequestFields()
    odd_responses: int = 0


@dataclass(frozen=True)
class ClientConfig:
    """How requests are sent.

    Attributes:
        names: Names that servers may use for the model, the most likely first.
        otherwise: The name to use where servers do not list their models.
        concurrency: Requests in flight.
        timeout: Seconds per request; None follows the token budget.
        retries: Retries per request.
        images: `data` or `file`.
        key, key_name: The API key and its environment variable.
    """

    names: tuple[str, ...]
    otherwise: str
    concurrency: int
    timeout: float | None = None
    retries: int = 8
    images: str = "data"
    key: str | None = None
    key_name: str = "OPENAI_API_KEY"

    def timeout_seconds(self, max_tokens: int) -> float:
        """Returns the timeout of a request; it follows the token budget unless the user set one."""
        return self.timeout or BASE_TIMEOUT_SECONDS + TIMEOUT_SECONDS_PER_TOKEN * max_tokens


@dataclass(frozen=True)
class ServedModel:
    """The model as the servers list it: its name, the engine (`vllm`, `sglang`, or unknown), and the most tokens of a
    request.
    """

    name: str
    engine: str = ""
    context: float = math.inf


class Client:
    """Streams jobs through a fleet. Everything except `stream` and `status` runs in the loop's thread."""

    def __init__(self, balancer: LoadBalancer, config: ClientConfig):
        self.balancer, self.config = balancer, config
        self.waiting: deque[PendingRequest] = deque()
        self.done: list[Outcome] = []
        self.made = self.taken = 0
        # Practically unbounded, because the loop must never block; `_dispatch_requests` keeps it short.
        self.outcomes: Channel[list[Outcome] | BaseException | None] = Channel(1 << 30)
        self.tasks: set[asyncio.Task[None]] = set()
        self.under_way = self.retried = self.postponed = 0
        self.over = self.held_back = self.left = self.ever_completed = False
        self.error: Exception | None = None
        self.refused: SophiaError | None = None
        self.fields, self.refused_records = RequestFields(), set[int]()
        self.abandoned: SophiaError | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.finished, self.wants_jobs = asyncio.Event(), asyncio.Event()

    def stream(self, jobs: ReadAhead[Job]) -> Iterator[Outcome]:
        """Yields every job once with its outcome.

        Raises:
            BaseException: what the iterator of jobs raised.
            SophiaError: no server answers, or all requests are refused.
        """
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self._run_loop, args=(jobs,), daemon=True).start()
        try:
            while (outcomes := self.outcomes.get()) is not None:
                if isinstance(outcomes, BaseException):
                    raise outcomes
                for outcome in outcomes:
                    yield outcome
                    self.taken += 1
                # Half of the limit, so that the loop is not woken for each outcome.
                if self.held_back and self.made - self.taken < MAX_UNTAKEN // 2:
                    self.held_back = False
                    self._call_in_loop(self._dispatch_requests)
        finally:
            self._call_in_loop(self._abandon)

    def _call_in_loop(self, what: Callable[[], None]) -> None:
        """Calls a function in the loop's thread, unless the loop is closed."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(what)

    def _abandon(self) -> None:
        self.left = True
        self._check_finished()

    def status(self) -> str:
        """Returns `64 in flight, 3 retries, 3/4 servers healthy, …` for the progress line."""
        parts = [f"{self.under_way} in flight"]
        if self.retried:
            parts.append(f"{self.retried} retries")
        if health := self.balancer.health_text(time.monotonic()):
            parts.append(health)
        return ", ".join(parts)

    def _run_loop(self, jobs: ReadAhead[Job]) -> None:
        """The loop's thread, from the first job to the last outcome."""
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.run(self._serve_jobs(jobs))
            last: BaseException | None = self.refused or self.error
        except BaseException as fault:  # noqa: BLE001  (raised again by `stream`)
            last = fault
        self._hand_over()
        self.outcomes.put(last)

    async def _serve_jobs(self, jobs: ReadAhead[Job]) -> None:
        self.proxies = {server.url: find_proxy(server.url) for server in self.balancer.servers}
        headers = {"Content-Type": "application/json"}
        if self.config.key:
            headers["Authorization"] = f"Bearer {self.config.key}"
        self.pool = ConnectionPool(headers)
        self.served = await self._discover_model()
        self.takers, self.readers = ThreadPoolExecutor(1), ThreadPoolExecutor(4)
        feeding = asyncio.create_task(self._feed_jobs(jobs))
        self._check_finished()
        await self.finished.wait()
        # Requests are still in flight here if the consumer has left or the servers refuse all requests.
        for task in (feeding, *self.tasks):
            task.cancel()
        await asyncio.gather(feeding, *self.tasks, return_exceptions=True)
        for pool in (self.takers, self.readers):
            pool.shutdown(wait=False, cancel_futures=True)
        self.pool.close()

    def _check_finished(self) -> None:
        """Ends the loop when all is done, when the consumer is gone, or when no server accepts what is left."""
        done = self.over and not (self.waiting or self.under_way or self.postponed)
        if done or self.left or self.refused is not None:
            self.finished.set()

    async def _discover_model(self) -> ServedModel:
        """Finds the model on the first server that lists its models; trusts the name where none does.

        Raises:
            SophiaError: the servers list other models.
        """
        asked = [asyncio.create_task(self._list_models(server)) for server in self.balancer.servers]
        known: list[dict[str, Any]] = []
        for listed in asyncio.as_completed(asked):
            # One list is enough: all servers of a fleet serve the same model.
            if known := known or await listed:
                break
        for task in asked:
            task.cancel()
        names = {entry["id"]: entry for entry in known}
        for name in self.config.names:
            if name in names:
                length = names[name].get("max_model_len")
                context = length if isinstance(length, int) and length > 0 else math.inf
                return ServedModel(name, str(names[name].get("owned_by", "")), context)
        if names:
            listed_names = ", ".join(list(names)[:5])
            raise SophiaError(
                f"{self.config.names[0]}: the server does not serve this model; it serves {listed_names}, use one of these"
            )
        return ServedModel(self.config.otherwise)

    async def _list_models(self, server: ServerState) -> list[dict[str, Any]]:
        """Returns the models that a server lists; none, with a log line, if it does not within DISCOVERY_SECONDS."""
        try:
            answer = await self.pool.get(
                f"{server.url}/models", self.proxies[server.url], DISCOVERY_SECONDS, MAX_RESPONSE_BYTES
            )
            if answer.status != 200:
                return []
            data = orjson.loads(answer.body)["data"]
            return [entry for entry in data if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
        except TimeoutError:
            trouble = f"no response within {DISCOVERY_SECONDS:.0f} s"
        except (ConnectError, ConnectionLost, ResponseTooLarge, ValueError, LookupError, TypeError) as error:
            trouble = str(error) or type(error).__name__
        log_line(f"{server.url}: cannot list its models ({' '.join(trouble.split())[:200]})")
        return []

    async def _feed_jobs(self, jobs: ReadAhead[Job]) -> None:
        """Keeps READ_AHEAD_JOBS jobs waiting. The thread that takes them blocks while the step's input blocks."""
        context = self.served.context
        try:
            while batch := await self.loop.run_in_executor(self.takers, jobs.take_batch, READ_AHEAD_JOBS, 0.0):
                if self.abandoned:
                    raise self.abandoned
                self.waiting.extend(
                    PendingRequest(job, sends_max_tokens=job.request.sampling.max_tokens < context) for job in batch
                )
                self._dispatch_requests()
                # Retries wait in the same queue; taking more jobs behind them would only use memory.
                while len(self.waiting) >= READ_AHEAD_JOBS // 2:
                    self.wants_jobs.clear()
                    await self.wants_jobs.wait()
        except Exception as fault:  # noqa: BLE001  (raised again when the requests in flight are done)
            self.error = fault
        self.over = True
        self._check_finished()

    def _dispatch_requests(self) -> None:
        """Sends waiting requests while there is room and a server accepts them; schedules its next call."""
        now = self.loop.time()
        self.held_back = self.made - self.taken >= MAX_UNTAKEN
        while self.waiting and self.under_way < self.config.concurrency and not self.held_back:
            server = self.balancer.pick_server(now, id(self.waiting[0].job.record))
            if server is None:
                break
            self.under_way += 1
            task = self.loop.create_task(self._send_request(self._next_request_for(server), server))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        if self.waiting and not self.under_way and self.balancer.all_failed():
            self._fail_waiting()
        if len(self.waiting) < READ_AHEAD_JOBS // 2:
            self.wants_jobs.set()
        chance = self.balancer.seconds_until_ready(now) if self.waiting else None
        if chance is not None and (self.timer is None or now + chance < self.timer.when()):
            if self.timer:
                self.timer.cancel()
            # 1 ms later: a timer may fire just before the backoff ends.
            self.timer = self.loop.call_later(chance + 0.001, self._on_timer)

    def _on_timer(self) -> None:
        self.timer = None
        self._dispatch_requests()

    def _next_request_for(self, server: ServerState) -> PendingRequest:
        """Returns the request that has waited longest; for a suspect server, one whose record has not failed there."""
        if server.backoffs and server.recent_failures:
            for index, attempt in enumerate(self.waiting):
                if id(attempt.job.record) not in server.recent_failures:
                    del self.waiting[index]
                    return attempt
        return self.waiting.popleft()

    async def _send_request(self, attempt: PendingRequest, server: ServerState) -> None:
        """Handles one request from sending to its outcome or its retry."""
        sent_at = self.loop.time()
        try:
            outcome = await self._request_completion(attempt, server)
            if outcome is not None:
                self._record_outcome(attempt.job, outcome)
            else:
                # To be sent again without `max_tokens`; it keeps its turn.
                self.waiting.appendleft(attempt)
            self.balancer.on_response(server)
        except RetryableError as again:
            self.balancer.on_failure(server, id(attempt.job.record), sent_at, self.loop.time(), again.trouble)
            self._retry_request(attempt, server, again.trouble)
        except RequestsRefused as refused:
            self.refused = self.refused or refused
        except RecordError as error:
            self.balancer.on_unsent(server)
            self._record_outcome(attempt.job, Failure(str(error)))
        except Exception as fault:  # noqa: BLE001  (fails this request only; the others go on)
            self.balancer.on_unsent(server)
            self._record_outcome(attempt.job, Failure(f"{server.url}: {type(fault).__name__}: {str(fault)[:200]}"))
        self.under_way -= 1
        self._dispatch_requests()
        self._check_finished()

    def _record_outcome(self, job: Job, outcome: Completion | Failure) -> None:
        """Stores the outcome of a job. Outcomes of HAND_OVER_SECONDS are handed over together."""
        self.made += 1
        self.done.append((job, outcome))
        if len(self.done) == 1:
            self.loop.call_later(HAND_OVER_SECONDS, self._hand_over)

    def _hand_over(self) -> None:
        if self.done:
            outcomes, self.done = self.done, []
            self.outcomes.put(outcomes)

    async def _request_completion(self, attempt: PendingRequest, server: ServerState) -> Completion | Failure | None:
        """Returns the outcome of one request; None when it must be sent again without `max_tokens`.

        Raises:
            RetryableError: the request must be sent again.
            RequestsRefused: no request will be answered.
            RecordError: no request can be made of the record.
        """
        body = await self._make_body(attempt)
        try:
            answer = await self._post(attempt, server, body)
            if answer.status == 200:
                outcome = parse_response(answer.body, attempt.job.request.sampling.logprobs)
                self.ever_completed |= isinstance(outcome, Completion)
                return outcome
        except ErrorResponse as error:
            return self._handle_error_status(attempt, server, error.status, f"{error} (in a response with status 200)", None)
        except OddResponse as error:
            attempt.odd_responses += 1
            if attempt.odd_responses > 1 and not self.ever_completed:
                return self._refuse(attempt, server, f"unusable answer: {error}")
            raise RetryableError(RequestFailure(f"unusable answer: {error}")) from None
        except UnusableResponse as error:
            raise RetryableError(RequestFailure(f"unusable answer: {error}")) from None
        message = error_message(answer.status, answer.body)
        if "location" in answer.headers:
            message += f" (moved to {answer.headers['location'][:100]}: use that as --base-url)"
        return self._handle_error_status(attempt, server, answer.status, message, answer.headers.get("retry-after"))

    async def _post(self, attempt: PendingRequest, server: ServerState, body: bytes) -> Response:
        """Returns the server's response, whatever its status.

        Raises:
            RetryableError: there is none; the request must be sent again.
            RequestsRefused: the server's certificate is not trusted.
        """
        sampling = attempt.job.request.sampling
        limit = self.config.timeout_seconds(sampling.max_tokens)
        # A server that streams without end must not fill the memory.
        most = MAX_RESPONSE_BYTES + MAX_BYTES_PER_TOKEN * sampling.max_tokens
        try:
            return await self.pool.post(server.endpoint, self.proxies[server.url], body, limit, most)
        except UntrustedCertificate as error:
            raise RequestsRefused(f"{server.url}: {error}; set SSL_CERT_FILE to the file of its authority") from None
        except ConnectError as error:
            raise RetryableError(RequestFailure(str(error), unhealthy=True)) from None
        except TimeoutError:
            raise RetryableError(RequestFailure(f"no response within {limit:.0f} s")) from None
        except ConnectionLost as error:
            raise RetryableError(RequestFailure(f"connection lost: {error}")) from None
        except ResponseTooLarge as error:
            raise RetryableError(RequestFailure(f"unusable answer: {error}")) from None

    async def _make_body(self, attempt: PendingRequest) -> bytes:
        """Makes the request's body. Images are read in another thread, because a disk may be slow.

        Raises:
            RecordError: an image cannot be read.
        """
        request, served = attempt.job.request, self.served
        attempt.fields = self.fields
        asked = (request, served.name, self.config.images, served.engine, attempt.sends_max_tokens, attempt.fields)
        if has_images(request):
            return await self.loop.run_in_executor(self.readers, request_body, *asked)
        return request_body(*asked)

    def _handle_error_status(
        self, attempt: PendingRequest, server: ServerState, status: int, message: str, retry_after: str | None
    ) -> Failure | None:
        """Decides what a status other than 200 means for its request.

        Raises:
            RetryableError: the request must be sent again.
            RequestsRefused: no request will be answered.
        """
        if status in BUSY_STATUSES | UNHEALTHY_STATUSES | RETRY_STATUSES or status >= 500:
            raise RetryableError(
                RequestFailure(
                    message,
                    status in BUSY_STATUSES | UNHEALTHY_STATUSES,
                    status in BUSY_STATUSES,
                    parse_retry_after(retry_after),
                )
            )
        if status in STATUS_HINTS:
            if self.balancer.ever_answered():  # a gateway whose server restarts, or a key that expired: others go on
                raise RetryableError(RequestFailure(message, unhealthy=True))
            raise RequestsRefused(
                f"{server.url}: refuses every request ({message}); {STATUS_HINTS[status].format(key=self.config.key_name)}"
            )
        if exceeds_context(message):
            if attempt.sends_max_tokens and attempt.job.request.sampling.max_tokens > 1:
                attempt.sends_max_tokens = False  # prompt plus max_tokens exceed the context: let the context be the limit
                return None
            return Failure(f"context length: {message}")
        if self._changes_fields(attempt, message):
            return None
        return self._refuse(attempt, server, f"refused: {message}")

    def _refuse(self, attempt: PendingRequest, server: ServerState, reason: str) -> Failure:
        """Returns the failure of a record that no retry will change.

        Raises:
            RequestsRefused: so many other records failed in this way, and none was answered.
        """
        if not self.ever_completed:
            self.refused_records.add(id(attempt.job.record))
            if len(self.refused_records) >= MAX_EARLY_REFUSALS:
                first = f"failed on each of the first {MAX_EARLY_REFUSALS} records ({reason})"
                raise RequestsRefused(f"{server.url}: {first}; check the model, the prompt and the settings")
        return Failure(reason)

    def _changes_fields(self, attempt: PendingRequest, message: str) -> bool:
        """Tells whether to send a refused request again with other fields; all later requests have them too."""
        if "max_completion_tokens" in message:
            self.fields = replace(self.fields, limit="max_completion_tokens")
        elif SEED_REFUSED.search(message) and self.fields.seed:
            self.fields = replace(self.fields, seed=False)
            log_line("the server refuses `seed`, which is no longer sent: another run gives other samples")
        return attempt.fields != self.fields

    def _retry_request(self, attempt: PendingRequest, server: ServerState, trouble: RequestFailure) -> None:
        """Queues a request again, or fails it after `retries`; fails everything when no server answers any more."""
        attempt.busy_retries += trouble.unhealthy
        attempt.failures += not trouble.unhealthy
        if attempt.failures > self.config.retries or attempt.busy_retries > MAX_BUSY_RETRIES * (self.config.retries + 1):
            tries = attempt.failures + attempt.busy_retries
            self._record_outcome(attempt.job, Failure(f"{server.url}: {trouble.reason} ({tries} tries)"))
        elif trouble.unhealthy:
            self.retried += 1
            self.waiting.appendleft(attempt)
        else:
            self.retried += 1
            self.postponed += 1
            self.loop.call_later(
                max(self.balancer.retry_delay(attempt.failures), trouble.retry_after), self._put_back, attempt
            )
        if self.balancer.all_failed():
            self._fail_waiting()

    def _put_back(self, attempt: PendingRequest) -> None:
        self.postponed -= 1
        self.waiting.appendleft(attempt)
        self._dispatch_requests()
        self._check_finished()

    def _fail_waiting(self) -> None:
        """Fails all waiting requests. If more jobs would come, the step ends and can be resumed."""
        troubles = "; ".join(f"{server.url}: {server.last_failure}" for server in self.balancer.servers[:3])
        self.abandoned = SophiaError(f"no server answers ({troubles}); start one and run the command again, it resumes")
        for attempt in self.waiting:
            self._record_outcome(attempt.job, Failure(f"no server answers ({troubles})"))
        self.waiting.clear()
        self._check_finished()
