"""Cost of our server client compared with the official `openai` async client and a bare aiohttp loop, in one run.

    make bench-client

Two measurements, each with a server on the other core: CPU per request with 1,024 in flight and no latency, and the
share of a bare loop's throughput that is reached with 100 ms of latency, including reading, building and writing
records. CPU is that of the whole process without its start (a run with one request). Ours runs as users run it, from
file to file.
"""

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import pages

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "servers.md"
MOST_CPU, LEAST_THROUGHPUT = 1 / 8, 0.97
LATENCY, RUNS = 0.1, 5
QUESTION = "There are shapes in the image. " * 50


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`instant_server.py` in its own process."""

    def __init__(self, seconds: float):
        self.port = free_port()
        program = [sys.executable, str(Path(__file__).with_name("instant_server.py")), str(self.port), str(seconds)]
        self.process = subprocess.Popen(program)
        while socket.socket().connect_ex(("127.0.0.1", self.port)):
            time.sleep(0.05)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()


def run_bare(url: str, requests: int, in_flight: int) -> None:
    """A bare aiohttp loop."""
    import asyncio

    import aiohttp

    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": QUESTION}], "seed": 1}).encode()

    async def work() -> None:
        numbers = iter(range(requests))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def one_by_one() -> None:
                for _ in numbers:
                    async with session.post(
                        f"{url}/chat/completions", data=body, headers={"Content-Type": "application/json"}
                    ) as answer:
                        json.loads(await answer.read())

            await asyncio.gather(*(one_by_one() for _ in range(in_flight)))

    asyncio.run(work())


def run_openai(url: str, requests: int, in_flight: int) -> None:
    """The official client with its defaults (at most 1,000 connections)."""
    import asyncio

    from openai import AsyncOpenAI

    async def work() -> None:
        numbers = iter(range(requests))
        client = AsyncOpenAI(base_url=url, api_key="none")

        async def one_by_one() -> None:
            for _ in numbers:
                await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": QUESTION}], seed=1, max_tokens=100
                )

        await asyncio.gather(*(one_by_one() for _ in range(in_flight)))

    asyncio.run(work())


PEERS = {"bare": run_bare, "openai": run_openai}


def measured(command: list[str]) -> tuple[float, float]:
    """Returns CPU and wall-clock seconds of a command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def command_of(name: str, python: Path, url: str, requests: int, in_flight: int, folder: Path) -> list[str]:
    if name != "ours":
        return [str(python), __file__, "--peer", name, url, str(requests), str(in_flight)]
    captions = folder / f"{requests}.jsonl"
    if not captions.exists():
        with captions.open("w") as file:
            for number in range(requests):
                record = {"id": f"q{number}", "question": "How many shapes?", "answer": "7", "caption_id": f"q{number}/c0"}
                file.write(json.dumps({**record, "caption": QUESTION}) + "\n")
    out = ["-o", str(folder / "out.jsonl"), "--force", "--quiet"]
    where = ["--base-url", url, "--llm", "m", "--concurrency", str(in_flight)]
    return [sys.executable, "-m", "sophia_cli", "reason", str(captions), "-n", "1", *where, *out]


def cost(name: str, python: Path, seconds: float, requests: int, in_flight: int, folder: Path) -> tuple[float, float]:
    """Returns CPU milliseconds per request and requests per second, without the start of the program."""
    with Server(seconds) as server:
        start = measured(command_of(name, python, server.url, 1, 1, folder))
        whole = measured(command_of(name, python, server.url, requests, in_flight, folder))
    return 1000 * (whole[0] - start[0]) / (requests - 1), (requests - 1) / (whole[1] - start[1])


def table(python: Path, requests: int) -> tuple[str, bool]:
    """Returns the table as Markdown, and whether both bounds hold."""
    lines = ["| in flight | latency | client | CPU, ms per request | requests/s |", "|---|---|---|---|---|"]
    cpu: dict[str, float] = {}
    rate: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for client in ("ours", "bare", "openai"):
            few = requests // 4 if client == "openai" else requests
            cpu[client], speed = cost(client, python, 0.0, few, 1024, folder)
            lines.append(f"| 1024 | none | {client} | {cpu[client]:.3f} | {speed:,.0f} |")
        for in_flight in (64, 256):
            runs: dict[str, list[tuple[float, float]]] = {"ours": [], "bare": []}
            for client in ("ours", "bare") * RUNS:
                runs[client].append(cost(client, python, LATENCY, 50 * in_flight, in_flight, folder))
            for client, costs in runs.items():
                spent, speed = (median(values) for values in zip(*costs, strict=True))
                rate[client, in_flight] = speed
                lines.append(f"| {in_flight} | {1000 * LATENCY:.0f} ms | {client} | {spent:.3f} | {speed:,.0f} |")
    share = cpu["ours"] / cpu["openai"]
    reached = min(rate["ours", in_flight] / rate["bare", in_flight] for in_flight in (64, 256))
    lines.append(f"\nCPU per request: 1/{1 / share:.1f} of openai's, {cpu['ours'] / cpu['bare']:.2f} × bare aiohttp's.")
    lines.append(f"Throughput with latency: at least {100 * reached:.1f}% of a bare loop's.")
    return "\n".join(lines), share <= MOST_CPU and reached >= LEAST_THROUGHPUT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", nargs=4, metavar=("NAME", "URL", "REQUESTS", "IN_FLIGHT"))
    parser.add_argument("--peers", type=Path, default=Path(sys.executable), help="a Python with aiohttp and openai")
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument("--write", action="store_true", help="put the table into docs/servers.md")
    options = parser.parse_args()
    if options.peer:
        name, url, requests, in_flight = options.peer
        PEERS[name](url, int(requests), int(in_flight))
        return 0
    text, holds = table(options.peers, options.requests)
    print(text)
    if options.write:
        pages.write(PAGE, text)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
