"""From addresses to a client: what the servers call the model, and whether this process may hold so many sockets."""

import json
import math
import os
import resource
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from sophia_cli.aliases import Model
from sophia_cli.backends._client import Client, Manners, proxy_of
from sophia_cli.backends._fleet import Fleet
from sophia_cli.errors import SophiaError, UsageError
from sophia_cli.place import Place
from sophia_cli.progress import notice

PLACES = 256
"""Requests in flight for each server, unless `--concurrency` says otherwise: what vLLM runs at once by default."""
SPARE_FILES = 100
HELLO_SECONDS = 10.0


def connect(urls: list[str], model: Model, place: Place, key: str | None) -> Client:
    """A client of these servers; key: goes with every request. Raises SophiaError when they do not know the model."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    known = first_answer(urls, headers)
    name = _name_there(model, known)
    there = next((entry for entry in known if entry["id"] == name), {})
    length = there.get("max_model_len")
    return Client(
        Fleet.of(urls, place.retries),
        Manners(
            model=name,
            concurrency=_in_flight(place.concurrency or PLACES * len(urls)),
            timeout=place.timeout,
            retries=place.retries,
            images="file" if place.shared_disk else "data",
            engine=str(there.get("owned_by", "")),
            context=length if isinstance(length, int) and length > 0 else math.inf,
            headers=tuple(headers.items()),
        ),
    )


def first_answer(urls: list[str], headers: dict[str, str]) -> list[dict[str, Any]]:
    """The models that the first server to answer lists; none where nobody does so, and names are trusted then."""
    for url in urls:
        asked = urllib.request.Request(f"{url}/models", headers=headers)
        proxy = proxy_of(url)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({urlsplit(url).scheme: proxy} if proxy else {}))
        try:
            with opener.open(asked, timeout=HELLO_SECONDS) as answer:
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
