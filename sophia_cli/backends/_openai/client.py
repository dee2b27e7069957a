"""Sends many requests to a fleet of chat servers: one event loop in its own thread, one task per request in flight.

A failed request is retried, on any healthy server, up to `retries` times. A request that is at fault itself (too long
for the model, refused) is not retried. When no server answers any more, the waiting requests fail and the step ends.
The loop never waits for the consumer: while too many outcomes are untaken, no new request is sent.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from sophia_cli.backends._openai.client_config import ClientConfig
from sophia_cli.backends._openai.exchange import Exchange, PendingRequest, RequestsRefused, RetryableError
from sophia_cli.backends._openai.http import ConnectionPool
from sophia_cli.backends._openai.load_balancer import LoadBalancer, RequestFailure, ServerState
from sophia_cli.backends._openai.proxy import find_proxy
from sophia_cli.backends._openai.served_model import discover_model
from sophia_cli.errors import RecordError, SophiaError
from sophia_cli.inference.types import Completion, Failure, Job
from sophia_cli.runtime.read_ahead import Channel, ReadAhead

READ_AHEAD_JOBS = 256
"""Jobs taken beyond those in flight, so that a free slot never waits for the next job."""
HAND_OVER_SECONDS = 0.02
"""How long outcomes are collected before the consumer is woken. Waking a thread for each one took a fifth of the CPU."""
MAX_UNTAKEN = 2048
"""Untaken outcomes above which no new request is sent."""
MAX_BUSY_RETRIES = 10
"""How often unhealthy servers may turn a request away for each of its own tries."""

Outcome = tuple[Job, Completion | Failure]


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
        self.over = self.held_back = self.left = False
        self.error: Exception | None = None
        self.refused: SophiaError | None = None
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
        proxies = {server.url: find_proxy(server.url) for server in self.balancer.servers}
        headers = {"Content-Type": "application/json"}
        if self.config.key:
            headers["Authorization"] = f"Bearer {self.config.key}"
        connections = ConnectionPool(headers)
        served = await discover_model(connections, self.balancer.servers, proxies, self.config)
        self.context = served.context
        self.takers, readers = ThreadPoolExecutor(1), ThreadPoolExecutor(4)
        self.exchange = Exchange(connections, proxies, self.config, served, readers, self.balancer.ever_answered)
        feeding = asyncio.create_task(self._feed_jobs(jobs))
        self._check_finished()
        await self.finished.wait()
        # Requests are still in flight here if the consumer has left or the servers refuse all requests.
        for task in (feeding, *self.tasks):
            task.cancel()
        await asyncio.gather(feeding, *self.tasks, return_exceptions=True)
        for threads in (self.takers, readers):
            threads.shutdown(wait=False, cancel_futures=True)
        connections.close()

    def _check_finished(self) -> None:
        """Ends the loop when all is done, when the consumer is gone, or when no server accepts what is left."""
        done = self.over and not (self.waiting or self.under_way or self.postponed)
        if done or self.left or self.refused is not None:
            self.finished.set()

    async def _feed_jobs(self, jobs: ReadAhead[Job]) -> None:
        """Keeps READ_AHEAD_JOBS jobs waiting. The thread that takes them blocks while the step's input blocks."""
        try:
            while batch := await self.loop.run_in_executor(self.takers, jobs.take_batch, READ_AHEAD_JOBS, 0.0):
                if self.abandoned:
                    raise self.abandoned
                self.waiting.extend(
                    PendingRequest(job, sends_max_tokens=job.request.sampling.max_tokens < self.context) for job in batch
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
            outcome = await self.exchange.complete(attempt, server)
            if outcome is not None:
                self._record_outcome(attempt.job, outcome)
            else:
                # To be sent again with other fields; it keeps its turn.
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
