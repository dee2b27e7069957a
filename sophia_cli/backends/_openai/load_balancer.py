"""The load balancer of a fleet: which server gets the next request, which servers back off, and when none is left. No I/O
here.

A request goes to the server with the fewest in flight. A server that fails backs off, longer each time (exponential,
with jitter), and is then probed with one request; a response makes it healthy. A server that asks for less (429) backs
off at least as long as it says. Afterwards it gets half of what it had in flight, and one more for every so many
responses (as in TCP). Times are seconds of a monotonic clock and are passed in.

What a failure says about its server: a refused connection, 429 and 502 to 504 concern the server. Anything else (500,
an unusable response, a lost connection) may be caused by the request; only several requests for different records make
the server unhealthy.
"""

import random
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 60.0
SUSPECT_RECORDS = 3
"""Records in a row that fail at a server, without a clear sign that it is unhealthy, before it backs off."""
MAX_BUSY_BACKOFFS = 8
"""Backoffs in a row that a server may ask for (429) before it counts as gone: about two minutes."""


@dataclass(frozen=True)
class RequestFailure:
    """Why a request failed.

    Attributes:
        reason: In words.
        unhealthy: The server would fail other requests too.
        busy: The server asks for fewer requests.
        retry_after: Seconds of its Retry-After.
    """

    reason: str
    unhealthy: bool = False
    busy: bool = False
    retry_after: float = 0.0


@dataclass
class ServerState:
    """One server and what it has done.

    Attributes:
        recent_failures: Records that failed here since the last response; each may be the cause itself.
        backoffs: Backoffs in a row without a response between them.
        max_in_flight: How many requests it may have after it asked for less.
        busy: Its last failure was a 429.
        has_ended: It is known to have ended.
    """

    url: str
    in_flight: int = 0
    sent: int = 0
    answered: int = 0
    recent_failures: set[Hashable] = field(default_factory=set)
    backoffs: int = 0
    backoff_until: float = 0.0
    backoff_began_at: float = -1.0
    max_in_flight: float = float("inf")
    last_failure: str = ""
    is_probed: bool = False
    busy: bool = False
    has_ended: bool = False

    @property
    def endpoint(self) -> str:
        return f"{self.url}/chat/completions"

    def backoff_seconds(self, now: float) -> str:
        return "is lost" if self.has_ended else f"paused for {max(self.backoff_until - now, 0):.0f} s"

    def accepts_request(self, now: float) -> bool:
        """Tells whether it may get a request now: not in backoff, and one at a time until it has answered since its last
        backoff.
        """
        if self.has_ended or now < self.backoff_until:
            return False
        return not self.is_probed if self.backoffs else self.in_flight < self.max_in_flight


@dataclass
class LoadBalancer:
    """All servers. retries: how often in a row each may fail after a backoff before it is given up."""

    servers: list[ServerState]
    retries: int
    jitter: random.Random = field(default_factory=random.Random)

    @classmethod
    def from_urls(cls, urls: Iterable[str], retries: int) -> "LoadBalancer":
        return cls([ServerState(url) for url in urls], retries)

    def pick_server(self, now: float, record: Hashable = None) -> ServerState | None:
        """Returns the server for a request for a record; None when none may get one.

        Prefers a server where the record has not just failed, then the fewest in flight, then the fewest sent: a
        server that fails on everything would be the idlest of all.
        """
        able = (server for server in self.servers if server.accepts_request(now))
        best = min(able, key=lambda server: (record in server.recent_failures, server.in_flight, server.sent), default=None)
        if best is not None:
            best.in_flight += 1
            best.sent += 1
            best.is_probed = best.backoffs > 0
        return best

    def on_response(self, server: ServerState) -> None:
        """A request was answered, possibly with a refusal that is the request's own fault."""
        server.in_flight -= 1
        server.answered += 1
        server.backoffs = 0
        server.recent_failures.clear()
        server.last_failure = ""
        if server.max_in_flight != float("inf"):
            # Additive increase: one more request after as many responses as the limit allows in flight.
            server.max_in_flight += 1 / server.max_in_flight

    def on_unsent(self, server: ServerState) -> None:
        """A request was not sent after all."""
        server.in_flight -= 1
        server.is_probed = False

    def on_failure(self, server: ServerState, record: Hashable, sent_at: float, now: float, trouble: RequestFailure) -> None:
        """A request for a record failed. A record that failed here before says nothing new about the server.

        Requests in flight together fail together: the first one starts the backoff.
        """
        server.in_flight -= 1
        if not server.has_ended:
            server.last_failure = trouble.reason
        # A request that was sent before the backoff is not the probe.
        server.is_probed = server.is_probed and sent_at <= server.backoff_began_at
        known = record in server.recent_failures
        server.recent_failures.add(record)
        # Sent before the last backoff began, so it failed for the same reason; only a longer Retry-After is news.
        if sent_at <= server.backoff_began_at:
            server.backoff_until = max(server.backoff_until, now + trouble.retry_after)
            return
        if not trouble.unhealthy and (known or (len(server.recent_failures) < SUSPECT_RECORDS and not server.backoffs)):
            return
        if trouble.busy:
            # Multiplicative decrease, from the number that was really in flight.
            server.max_in_flight = max(1.0, min(server.max_in_flight, server.in_flight + 1) / 2)
        # Jitter, so that clients do not probe the servers behind one gateway all at once.
        rest = min(FIRST_BACKOFF_SECONDS * 2.0**server.backoffs, MAX_BACKOFF_SECONDS) * self.jitter.uniform(0.5, 1.0)
        server.backoffs += 1
        server.busy = trouble.busy
        server.backoff_began_at = now
        server.backoff_until = now + max(rest, trouble.retry_after)

    def all_failed(self) -> bool:
        """Tells whether every server has ended, or failed again after each of `retries` backoffs (MAX_BUSY_BACKOFFS if it
        asked for them).
        """
        return all(self._is_given_up(server) for server in self.servers)

    def _is_given_up(self, server: ServerState) -> bool:
        return server.has_ended or server.backoffs > (max(self.retries, MAX_BUSY_BACKOFFS) if server.busy else self.retries)

    def ever_answered(self) -> bool:
        """Tells whether any server has answered anything."""
        return any(server.answered for server in self.servers)

    def on_server_ended(self, url: str, trouble: str) -> None:
        """A server has ended."""
        for server in self.servers:
            if server.url == url:
                server.has_ended, server.last_failure = True, trouble

    def seconds_until_ready(self, now: float) -> float | None:
        """Returns the seconds until a server ends its backoff; None when none backs off."""
        ends = [server.backoff_until - now for server in self.servers if server.backoff_until > now]
        return min(ends) if ends else None

    def retry_delay(self, tries: int) -> float:
        """Returns the seconds before a request with this many failures of its own is sent again."""
        return min(FIRST_BACKOFF_SECONDS * 2.0 ** (tries - 1), MAX_BACKOFF_SECONDS) * self.jitter.uniform(0.5, 1.0)

    def health_text(self, now: float) -> str:
        """Returns `3/4 servers healthy, http://b:8000 is paused for 12 s (503)`; nothing for one healthy server."""
        unwell = [server for server in self.servers if server.backoffs or server.has_ended]
        if not unwell:
            return f"{len(self.servers)} servers healthy" if len(self.servers) > 1 else ""
        named = [f"{server.url} {server.backoff_seconds(now)} ({server.last_failure})" for server in unwell[:3]]
        return f"{len(self.servers) - len(unwell)}/{len(self.servers)} servers healthy, " + ", ".join(named)
