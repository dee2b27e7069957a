"""Any OpenAI-compatible chat server, or a fleet of them: vLLM, SGLang, or a provider (`--base-url`, repeatable).

Each sample is one request with a seed of its own. What a server makes of a seed is up to it: vLLM draws the same sample
again from the same seed, up to the rounding that depends on what else is in its batch.
"""

import json
import os
import resource
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from sophia_cli.aliases import Model
from sophia_cli.arrivals import Arrivals
from sophia_cli.backends._client import Client, Manners
from sophia_cli.backends._fleet import Fleet
from sophia_cli.errors import SophiaError, UsageError
from sophia_cli.progress import notice
from sophia_cli.sampling import Completion, Failure, Job, Place

PLACES = 256
"""Requests in flight for each server, unless `--concurrency` says otherwise: what vLLM runs at once by default."""
SPARE_FILES = 100
HELLO_SECONDS = 10.0


class Backend:
    """A client of the servers at `place.base_urls`, else at OPENAI_BASE_URL."""

    def __init__(self, model: Model, place: Place):
        self.urls = [url.rstrip("/") for url in place.base_urls or _urls_of_environment()]
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise UsageError(f"--base-url {url}: no address of a server; give one as in http://127.0.0.1:8000/v1")
        headers = _headers()
        known = first_answer(self.urls, headers)
        self.client = Client(
            Fleet.of(self.urls, place.retries),
            Manners(
                model=_name_there(model, known),
                concurrency=_in_flight(place.concurrency or PLACES * len(self.urls)),
                timeout=place.timeout,
                retries=place.retries,
                images="file" if place.shared_disk else "data",
                uuid=any(entry.get("owned_by") == "vllm" for entry in known),
                headers=tuple(headers.items()),
            ),
        )

    def stream(self, jobs: Arrivals[Job]) -> Iterator[tuple[Job, Completion | Failure]]:
        """Completions as they come."""
        return self.client.stream(jobs)

    def status(self) -> str:
        """Requests in flight, retries, and the health of the fleet."""
        return self.client.status()


def _urls_of_environment() -> list[str]:
    url = os.environ.get("OPENAI_BASE_URL")
    if not url:
        raise UsageError("--backend openai: give --base-url, as in --base-url http://127.0.0.1:8000/v1")
    return [url]


def _headers() -> dict[str, str]:
    key = os.environ.get("OPENAI_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def first_answer(urls: list[str], headers: dict[str, str]) -> list[dict[str, Any]]:
    """The models that the first server to answer lists; none where nobody does so, and names are trusted then."""
    for url in urls:
        asked = urllib.request.Request(f"{url}/models", headers=headers)
        try:
            with urllib.request.urlopen(asked, timeout=HELLO_SECONDS) as answer:
                listed = json.load(answer)["data"]
                return [entry for entry in listed if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
        except urllib.error.HTTPError:
            return []
        except (OSError, ValueError, LookupError, TypeError) as error:
            notice(f"{url}: does not say what models it has ({getattr(error, 'reason', None) or error})")
    return []


def _name_there(model: Model, known: list[dict[str, Any]]) -> str:
    """What the servers call the model: as typed, or as its alias stands for. Raises SophiaError when they do not know it."""
    names = [entry["id"] for entry in known]
    for name in (model.name, model.path):
        if name in names:
            return name
    if names:
        raise SophiaError(f"{model.name}: the server does not know it, but {', '.join(names[:5])}; give one of these")
    return model.name if os.path.isdir(model.path) else model.path


def _in_flight(wanted: int) -> int:
    """As many requests as wanted, for which this process must hold as many sockets. Raises UsageError beyond the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_FILES
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise UsageError(
            f"--concurrency {wanted}: needs {needed} open files, the limit is {hard}; raise it (ulimit -n) or give less"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return wanted
