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

FIRST_REST, LONGEST_REST = 0.5, 60.0
UNLUCKY = 3
"""Records in a row that fail at a server which does not itself say that it is unwell, before it rests."""
PATIENT = 8
"""Rests in a row that a server may ask for (429) before it counts as gone: about two minutes."""


@dataclass(frozen=True)
class Trouble:
    """Why a request failed. sick: the server says that it would fail others too. busy: it asks for less.

    asked: seconds of its Retry-After.
    """

    reason: str
    sick: bool = False
    busy: bool = False
    asked: float = 0.0


@dataclass
class Server:
    """One server and what it has done.

    suspects: the records that have failed here since the last answer, any of which may be to blame itself. rests: in a row,
    without an answer between. window: how many requests it may have in flight, after it asked for less. busy: its last word
    was a 429. lost: it is known to have ended.
    """

    url: str
    in_flight: int = 0
    sent: int = 0
    answered: int = 0
    suspects: set[Hashable] = field(default_factory=set)
    rests: int = 0
    rests_until: float = 0.0
    rested_at: float = -1.0
    window: float = float("inf")
    trouble: str = ""
    probed: bool = False
    busy: bool = False
    lost: bool = False

    @property
    def endpoint(self) -> str:
        return f"{self.url}/chat/completions"

    def rest(self, now: float) -> str:
        return "is lost" if self.lost else f"rests {max(self.rests_until - now, 0):.0f} s"

    def takes(self, now: float) -> bool:
        """Whether it may get a request now: rested; one new one at a time until it has answered since its last rest."""
        if self.lost or now < self.rests_until:
            return False
        return not self.probed if self.rests else self.in_flight < self.window


@dataclass
class Fleet:
    """All servers. retries: how often in a row each may fail after a rest before nobody is waited for any more."""

    servers: list[Server]
    retries: int
    jitter: random.Random = field(default_factory=random.Random)

    @classmethod
    def of(cls, urls: Iterable[str], retries: int) -> "Fleet":
        return cls([Server(url) for url in urls], retries)

    def pick(self, now: float, record: Hashable = None) -> Server | None:
        """The server for a request for a record; None when none may get one.

        Rather one where the record has not just failed, then the fewest in flight, then the fewest sent: a server that fails
        on everything is the idlest of all.
        """
        able = (server for server in self.servers if server.takes(now))
        best = min(able, key=lambda server: (record in server.suspects, server.in_flight, server.sent), default=None)
        if best is not None:
            best.in_flight += 1
            best.sent += 1
            best.probed = best.rests > 0
        return best

    def answered(self, server: Server) -> None:
        """A request was answered, be it with a refusal that is the request's own fault."""
        server.in_flight -= 1
        server.answered += 1
        server.rests = 0
        server.suspects.clear()
        server.trouble = ""
        if server.window != float("inf"):
            server.window += 1 / server.window

    def unsent(self, server: Server) -> None:
        """A request was not sent after all."""
        server.in_flight -= 1
        server.probed = False

    def failed(self, server: Server, record: Hashable, sent_at: float, now: float, trouble: Trouble) -> None:
        """A request for a record failed; a record that has failed here before says nothing new of the server.

        What was in flight together fails together: the first of it sends the server to rest.
        """
        server.in_flight -= 1
        if not server.lost:
            server.trouble = trouble.reason
        server.probed = server.probed and sent_at <= server.rested_at
        known = record in server.suspects
        server.suspects.add(record)
        if sent_at <= server.rested_at:
            server.rests_until = max(server.rests_until, now + trouble.asked)
            return
        if not trouble.sick and (known or (len(server.suspects) < UNLUCKY and not server.rests)):
            return
        if trouble.busy:
            server.window = max(1.0, min(server.window, server.in_flight + 1) / 2)
        rest = min(FIRST_REST * 2.0**server.rests, LONGEST_REST) * self.jitter.uniform(0.5, 1.0)
        server.rests += 1
        server.busy = trouble.busy
        server.rested_at = now
        server.rests_until = now + max(rest, trouble.asked)

    def dead(self) -> bool:
        """Whether every server has ended, or failed again after each of `retries` rests (`PATIENT` if it asked for them)."""
        return all(self._gone(server) for server in self.servers)

    def _gone(self, server: Server) -> bool:
        return server.lost or server.rests > (max(self.retries, PATIENT) if server.busy else self.retries)

    def ever_answered(self) -> bool:
        """Whether any server has answered anything."""
        return any(server.answered for server in self.servers)

    def lose(self, url: str, trouble: str) -> None:
        """Notes that a server has ended."""
        for server in self.servers:
            if server.url == url:
                server.lost, server.trouble = True, trouble

    def next_chance(self, now: float) -> float | None:
        """Seconds until a server ends its rest; None when none rests."""
        ends = [server.rests_until - now for server in self.servers if server.rests_until > now]
        return min(ends) if ends else None

    def pause(self, tries: int) -> float:
        """Seconds before a request that failed by itself so many times is sent again."""
        return min(FIRST_REST * 2.0 ** (tries - 1), LONGEST_REST) * self.jitter.uniform(0.5, 1.0)

    def health(self, now: float) -> str:
        """`3/4 servers well, http://b:8000 rests 12 s (503)`; for one well server nothing."""
        unwell = [server for server in self.servers if server.rests or server.lost]
        if not unwell:
            return f"{len(self.servers)} servers well" if len(self.servers) > 1 else ""
        named = [f"{server.url} {server.rest(now)} ({server.trouble})" for server in unwell[:3]]
        return f"{len(self.servers) - len(unwell)}/{len(self.servers)} servers well, " + ", ".join(named)
