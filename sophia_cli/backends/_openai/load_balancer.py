"""The servers of a fleet: who gets the next request, who rests, and when nobody is left. No I/O here, only the ledger.

A request goes to the server with the fewest in flight. A server that fails rests, longer each time it fails again
(exponential, with jitter), and is then tried with one request; when that is answered it is well. A server that asks for
less (429) rests at least as long as it says, and then gets half of what it had in flight, one more for every so many
answers (as TCP does). All times are seconds of a monotonic clock, handed in.

What a failure says of its server: no connection, 429 and 502 to 504 are the server's word; any other (500, nonsense, a lost
connection) may be the request's own fault, and only several requests for different records make the server unwell.
"""

import random
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 60.0
SUSPECT_RECORDS = 3
"""Records in a row that fail at a server which does not itself say that it is unwell, before it rests."""
MAX_BUSY_BACKOFFS = 8
"""Rests in a row that a server may ask for (429) before it counts as gone: about two minutes."""


@dataclass(frozen=True)
class RequestFailure:
    """Why a request failed. sick: the server says that it would fail others too. busy: it asks for less.

    asked: seconds of its Retry-After.
    """

    reason: str
    unhealthy: bool = False
    busy: bool = False
    retry_after: float = 0.0


@dataclass
class ServerState:
    """One server and what it has done.

    suspects: the records that have failed here since the last answer, any of which may be to blame itself. rests: in a row,
    without an answer between. window: how many requests it may have in flight, after it asked for less. busy: its last word
    was a 429. lost: it is known to have ended.
    """

    url: str
    in_flight: int = 0
    sent: int = 0
    answered: int = 0
    recent_failures: set[Hashable] = field(default_factory=set)
    backoffs: int = 0
    backoff_until: float = 0.0
    backoff_ended_at: float = -1.0
    max_in_flight: float = float("inf")
    last_failure: str = ""
    is_probed: bool = False
    busy: bool = False
    has_ended: bool = False

    @property
    def endpoint(self) -> str:
        return f"{self.url}/chat/completions"

    def backoff_seconds(self, now: float) -> str:
        return "is lost" if self.has_ended else f"rests {max(self.backoff_until - now, 0):.0f} s"

    def accepts_request(self, now: float) -> bool:
        """Whether it may get a request now: rested; one new one at a time until it has answered since its last rest."""
        if self.has_ended or now < self.backoff_until:
            return False
        return not self.is_probed if self.backoffs else self.in_flight < self.max_in_flight


@dataclass
class LoadBalancer:
    """All servers. retries: how often in a row each may fail after a rest before nobody is waited for any more."""

    servers: list[ServerState]
    retries: int
    jitter: random.Random = field(default_factory=random.Random)

    @classmethod
    def from_urls(cls, urls: Iterable[str], retries: int) -> "LoadBalancer":
        return cls([ServerState(url) for url in urls], retries)

    def pick_server(self, now: float, record: Hashable = None) -> ServerState | None:
        """The server for a request for a record; None when none may get one.

        Rather one where the record has not just failed, then the fewest in flight, then the fewest sent: a server that fails
        on everything is the idlest of all.
        """
        able = (server for server in self.servers if server.accepts_request(now))
        best = min(able, key=lambda server: (record in server.recent_failures, server.in_flight, server.sent), default=None)
        if best is not None:
            best.in_flight += 1
            best.sent += 1
            best.is_probed = best.backoffs > 0
        return best

    def on_response(self, server: ServerState) -> None:
        """A request was answered, be it with a refusal that is the request's own fault."""
        server.in_flight -= 1
        server.answered += 1
        server.backoffs = 0
        server.recent_failures.clear()
        server.last_failure = ""
        if server.max_in_flight != float("inf"):
            server.max_in_flight += 1 / server.max_in_flight

    def on_unsent(self, server: ServerState) -> None:
        """A request was not sent after all."""
        server.in_flight -= 1
        server.is_probed = False

    def on_failure(self, server: ServerState, record: Hashable, sent_at: float, now: float, trouble: RequestFailure) -> None:
        """A request for a record failed; a record that has failed here before says nothing new of the server.

        What was in flight together fails together: the first of it sends the server to rest.
        """
        server.in_flight -= 1
        if not server.has_ended:
            server.last_failure = trouble.reason
        server.is_probed = server.is_probed and sent_at <= server.backoff_ended_at
        known = record in server.recent_failures
        server.recent_failures.add(record)
        if sent_at <= server.backoff_ended_at:
            server.backoff_until = max(server.backoff_until, now + trouble.retry_after)
            return
        if not trouble.unhealthy and (known or (len(server.recent_failures) < SUSPECT_RECORDS and not server.backoffs)):
            return
        if trouble.busy:
            server.max_in_flight = max(1.0, min(server.max_in_flight, server.in_flight + 1) / 2)
        rest = min(FIRST_BACKOFF_SECONDS * 2.0**server.backoffs, MAX_BACKOFF_SECONDS) * self.jitter.uniform(0.5, 1.0)
        server.backoffs += 1
        server.busy = trouble.busy
        server.backoff_ended_at = now
        server.backoff_until = now + max(rest, trouble.retry_after)

    def all_failed(self) -> bool:
        """Whether every server has ended, or failed again after each of `retries` rests (`PATIENT` if it asked for them)."""
        return all(self._is_given_up(server) for server in self.servers)

    def _is_given_up(self, server: ServerState) -> bool:
        return server.has_ended or server.backoffs > (max(self.retries, MAX_BUSY_BACKOFFS) if server.busy else self.retries)

    def ever_answered(self) -> bool:
        """Whether any server has answered anything."""
        return any(server.answered for server in self.servers)

    def on_server_ended(self, url: str, trouble: str) -> None:
        """Notes that a server has ended."""
        for server in self.servers:
            if server.url == url:
                server.has_ended, server.last_failure = True, trouble

    def seconds_until_ready(self, now: float) -> float | None:
        """Seconds until a server ends its rest; None when none rests."""
        ends = [server.backoff_until - now for server in self.servers if server.backoff_until > now]
        return min(ends) if ends else None

    def retry_delay(self, tries: int) -> float:
        """Seconds before a request that failed by itself so many times is sent again."""
        return min(FIRST_BACKOFF_SECONDS * 2.0 ** (tries - 1), MAX_BACKOFF_SECONDS) * self.jitter.uniform(0.5, 1.0)

    def health_text(self, now: float) -> str:
        """`3/4 servers well, http://b:8000 rests 12 s (503)`; for one well server nothing."""
        unwell = [server for server in self.servers if server.backoffs or server.has_ended]
        if not unwell:
            return f"{len(self.servers)} servers well" if len(self.servers) > 1 else ""
        named = [f"{server.url} {server.backoff_seconds(now)} ({server.last_failure})" for server in unwell[:3]]
        return f"{len(self.servers) - len(unwell)}/{len(self.servers)} servers well, " + ", ".join(named)
