"""One request and what its response means: a completion, a failure of its record, another try, or the end of the step.

`client.py` decides when a request is sent and to which server. This file knows what all requests have in common: the
model as it is served, the fields that the servers refuse, and whether anything was ever completed.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from sophia_cli.backends._openai.chat_api import RequestFields, has_images, request_body
from sophia_cli.backends._openai.chat_response import (
    ErrorResponse,
    OddResponse,
    UnusableResponse,
    error_message,
    exceeds_context,
    parse_response,
)
from sophia_cli.backends._openai.client_config import ClientConfig
from sophia_cli.backends._openai.http import ConnectionPool, Response
from sophia_cli.backends._openai.http_errors import ConnectError, ConnectionLost, ResponseTooLarge, UntrustedCertificate
from sophia_cli.backends._openai.load_balancer import RequestFailure, ServerState
from sophia_cli.backends._openai.retry_after import parse_retry_after
from sophia_cli.backends._openai.served_model import ServedModel
from sophia_cli.errors import SophiaError
from sophia_cli.inference.types import Completion, Failure, Job
from sophia_cli.records import record_name
from sophia_cli.runtime.progress import log_line

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
_REFUSES = r"(?:support|permit|allow|unrecogni|unknown|unexpected|extra|invalid|available|must be|forbidden)"
SEED_REFUSED, LIMIT_REFUSED = (
    re.compile(
        rf"(?!.*\bprompt\b)(?:\b{field}\b.{{0,80}}{_REFUSES}|{_REFUSES}.{{0,80}}\b{field}\b)", re.IGNORECASE | re.DOTALL
    )
    for field in ("seed", "max_tokens")
)
# So many records refused for one reason, and none answered: the model or the settings are wrong, not the records.
MAX_EARLY_REFUSALS = 20
MAX_TURNED_AWAY, TURNED_AWAY_RECORDS = 3, 3
"""How often a record is refused with 403 or 404, and how many in a row are, before the record or the server is the cause."""


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
    turned_away: int = 0
    completions_before: int = 0


class Exchange:
    """Sends one request at a time, and remembers what concerns all of them."""

    def __init__(
        self,
        pool: ConnectionPool,
        proxies: Mapping[str, str | None],
        config: ClientConfig,
        served: ServedModel,
        readers: ThreadPoolExecutor,
        ever_answered: Callable[[], bool],
    ):
        self.pool, self.proxies, self.config, self.served, self.readers = pool, proxies, config, served, readers
        self.ever_answered = ever_answered
        self.completions = 0
        self.fields = RequestFields()
        self.refused: dict[str, set[str]] = {}
        """The names of the records that failed for each reason, before anything was completed."""
        self.turned_away: set[str] = set()
        """The names of the records that were refused with 403 or 404 since the last completion."""

    async def complete(self, attempt: PendingRequest, server: ServerState) -> Completion | Failure | None:
        """Returns the outcome of one request; None when it must be sent again at once, with other fields.

        Raises:
            RetryableError: the request must be sent again.
            RequestsRefused: no request will be answered.
            RecordError: no request can be made of the record.
        """
        body = await self._make_body(attempt)
        try:
            answer = await self._post(attempt, server, body)
            if 200 <= answer.status < 300:
                outcome = parse_response(answer.body, attempt.job.request.sampling.logprobs)
                if isinstance(outcome, Completion):
                    self.completions += 1
                    self.turned_away.clear()
                return outcome
        except ErrorResponse as error:
            return self._handle_error_status(attempt, server, error.status, f"{error} (in a response with status 200)", None)
        except OddResponse as error:
            attempt.odd_responses += 1
            if attempt.odd_responses > 1:
                return self._refuse(attempt, server, f"unusable answer: {error}")
            raise RetryableError(RequestFailure(f"unusable answer: {error}")) from None
        except UnusableResponse as error:
            raise RetryableError(RequestFailure(f"unusable answer: {error}")) from None
        message = error_message(answer.status, answer.body)
        if place := answer.headers.get("location"):
            moved = place.partition("/chat/completions")[0][:100]
            message += f" (moved to {moved}: use that as --base-url)" if "://" in place else f" (redirects to {place[:100]})"
        return self._handle_error_status(attempt, server, answer.status, message, answer.headers.get("retry-after"))

    async def _post(self, attempt: PendingRequest, server: ServerState, body: bytes) -> Response:
        """Returns the server's response, whatever its status.

        Raises:
            RetryableError: there is none; the request must be sent again.
            RequestsRefused: the server's certificate is not trusted, or it does not speak TLS.
        """
        sampling = attempt.job.request.sampling
        limit = self.config.timeout_seconds(sampling.max_tokens)
        # A server that streams without end must not fill the memory.
        most = MAX_RESPONSE_BYTES + MAX_BYTES_PER_TOKEN * sampling.max_tokens
        try:
            return await self.pool.post(server.endpoint, self.proxies[server.url], body, limit, most)
        except UntrustedCertificate as error:
            raise RequestsRefused(f"{server.url}: {error}") from None
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
            return await asyncio.get_running_loop().run_in_executor(self.readers, request_body, *asked)
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
            return self._handle_turned_away(attempt, server, status, message)
        if exceeds_context(message):
            if attempt.sends_max_tokens and attempt.job.request.sampling.max_tokens > 1:
                attempt.sends_max_tokens = False  # prompt plus max_tokens exceed the context: let the context be the limit
                return None
            return Failure(f"context length: {message}")
        if self._changes_fields(attempt, message):
            return None
        return self._refuse(attempt, server, f"refused: {message}")

    def _handle_turned_away(self, attempt: PendingRequest, server: ServerState, status: int, message: str) -> Failure:
        """Decides whether 401 to 404 concern one record (moderation, an image's address) or all: others are tried first.

        Raises:
            RetryableError: the request must be sent again, after others.
            RequestsRefused: no request will be answered.
        """
        if status in (403, 404):
            if attempt.turned_away and self.completions > attempt.completions_before:
                return Failure(f"refused: {message}")
            attempt.turned_away, attempt.completions_before = attempt.turned_away + 1, self.completions
            self.turned_away.add(record_name(attempt.job.record))
            if len(self.turned_away) < TURNED_AWAY_RECORDS:
                if attempt.turned_away < MAX_TURNED_AWAY:
                    raise RetryableError(RequestFailure(message))
                if self.completions:
                    return Failure(f"refused: {message}")
        if self.ever_answered() and status != 402:  # a gateway whose server restarts, or a key that expired: others go on
            raise RetryableError(RequestFailure(message, unhealthy=True))
        remedy = STATUS_HINTS[status].format(key=self.config.key_name)
        raise RequestsRefused(f"{server.url}: refuses every request ({message}); {remedy}")

    def _refuse(self, attempt: PendingRequest, server: ServerState, reason: str) -> Failure:
        """Returns the failure of a record that no retry will change.

        Raises:
            RequestsRefused: so many other records failed for the same reason, and none was completed.
        """
        if not self.completions:
            same = self.refused.setdefault(re.sub(r"\d+", "#", reason), set())
            same.add(record_name(attempt.job.record))
            if len(same) >= MAX_EARLY_REFUSALS:
                why = f"{MAX_EARLY_REFUSALS} records failed for one reason and none succeeded ({reason})"
                raise RequestsRefused(f"{server.url}: {why}; check the model, the prompt and the settings")
        return Failure(reason)

    def _changes_fields(self, attempt: PendingRequest, message: str) -> bool:
        """Tells whether to send a refused request again with other fields; all later requests have them too."""
        if "max_completion_tokens" in message or LIMIT_REFUSED.search(message):
            self.fields = replace(self.fields, limit="max_completion_tokens")
        elif SEED_REFUSED.search(message) and self.fields.seed:
            self.fields = replace(self.fields, seed=False)
            log_line("the server refuses `seed`, which is no longer sent: another run gives other samples")
        return attempt.fields != self.fields
