"""Is the prompt that the captions of an image share computed once when each caption is a request of its own?

    make bench-prefill

Eight captions of each of 32 images from a real vLLM on the CPU, in three ways: one request with `n` = 8 (one seed,
lengths summed), eight requests with their own seeds as `sophia caption` sends them, and the same without the server's
prefix cache. The server counts the prompt tokens that it computed. The embedded model's prompts are short compared
with its captions, unlike those of real models, so a long text is added to the prompt.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pages

from sophia_cli.backends._openai.chat_api import request_body
from sophia_cli.inference.types import Request, SamplingParams

ROOT = Path(__file__).parent.parent
PICTURES, CAPTIONS, IN_FLIGHT = 32, 8, 64
TEXT = "Describe the image. " * 80
BLOCKS = "--block-size 32"
"""The smallest cache block on a CPU (16 tokens on GPUs): only whole blocks are shared."""


def sophia(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sophia_cli", *arguments]


def asked(url: str, bodies: list[bytes]) -> float:
    """Returns the seconds for all requests, `IN_FLIGHT` at once."""

    def ask(body: bytes) -> None:
        request = urllib.request.Request(f"{url}/chat/completions", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request).read()

    start = time.perf_counter()
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        list(pool.map(ask, bodies))
    return time.perf_counter() - start


def counted(url: str) -> tuple[float, float]:
    """Returns the prompt tokens requested so far, and those found in the cache."""
    text = urllib.request.urlopen(url.removesuffix("/v1") + "/metrics").read().decode()
    return tuple(  # type: ignore[return-value]
        sum(float(value) for value in re.findall(rf"^vllm:{name}_total{{[^}}]*}} (\S+)", text, re.MULTILINE))
        for name in ("prompt_tokens", "prompt_tokens_cached")
    )


def bodies(images: list[Path], first_seed: int, n: int) -> list[bytes]:
    """One request per image with `n` samples, or `CAPTIONS` requests with one."""
    made = []
    for number, image in enumerate(images):
        shown: list[dict[str, Any]] = [{"type": "image", "image": str(image)}, {"type": "text", "text": TEXT}]
        for sample in range(CAPTIONS // n):
            request = Request(
                [{"role": "user", "content": shown}], SamplingParams(1.0, 1.0, 48), first_seed + 100 * number + sample
            )
            made.append(json.dumps({**json.loads(request_body(request, "tiny-vlm", engine="vllm")), "n": n}).encode())
    return made


def measure(folder: Path, options: str, ways: dict[str, int]) -> list[str]:
    """Returns one table row per way, on a server with these options; each way uses its own images."""
    server = subprocess.Popen(sophia("serve", "tiny-vlm", "--server-options", f"{BLOCKS} {options}"), stdout=subprocess.PIPE)
    assert server.stdout
    rows = []
    try:
        url = json.loads(server.stdout.readline())["base_url"]
        images = sorted((folder / "imgs").glob("*.png"))
        asked(url, bodies(images[-2:], 0, 1))
        for place, (name, n) in enumerate(ways.items()):
            own = images[place * PICTURES : (place + 1) * PICTURES]
            before = counted(url)
            seconds = asked(url, bodies(own, 1, n))
            wanted, held = (now - then for now, then in zip(counted(url), before, strict=True))
            rows.append(f"| {name} | {wanted:,.0f} | {wanted - held:,.0f} | {seconds:.1f} |")
    finally:
        server.terminate()
        server.wait()
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", type=Path, required=True, help="the folder of a `vllm` that runs here")
    parser.add_argument("--write", action="store_true", help="put the table into docs/servers.md")
    options = parser.parse_args()
    os.environ["PATH"] = f"{options.vllm.resolve()}:{os.environ['PATH']}"
    lines = ["| 8 captions of an image | prompt tokens asked for | computed | seconds |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(sophia("world", str(folder / "imgs"), "-n", str(2 * PICTURES + 2), "--seed", "3"), check=True)
        lines += measure(folder, "", {"one request, `n` = 8": CAPTIONS, "eight requests, own seeds (ours)": 1})
        lines += measure(folder, "--no-enable-prefix-caching", {"eight requests, no prefix cache": 1})
    text = "\n".join(lines)
    print(text)
    if options.write:
        pages.write(ROOT / "docs" / "servers.md", text, "prefill")
    return 0


if __name__ == "__main__":
    sys.exit(main())
