"""Our verifier compared with those on PyPI: agreement, false accepts, and throughput on one core, in one paired run.

    make bench-verifier

Each verifier runs in its own process, on the same core, warmed up first. The real outputs are given in chunks to one
verifier after the other, so that other load on the machine affects all of them. `--write` puts the table into
docs/verifier.md.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pages

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests" / "data"
PAGE = ROOT / "docs" / "verifier.md"
CHUNK = 100
PAIRED_BOUND = 10
PEERS = {"math-verify": "math-verify 0.9.0", "mathruler": "MathRuler 0.1.0", "inspect": "inspect_ai 0.3.285 (math)"}
NAMES = {"ours": "**sophia** (`verifier/`)", **PEERS}

Judge = Callable[[dict[str, Any]], bool]


def response_of(row: dict[str, Any]) -> str:
    """Returns the text that the verifiers read: a whole response, or a bare answer in a box."""
    return row["pred"] if row["kind"] == "text" else f"\\boxed{{{row['pred']}}}"


def ours() -> Judge:
    from sophia_cli.verifier import verify

    names = {"gold": "answer", "options": "choices", "abs_tol": "tolerance", "rounding": "precision"}
    fields = (*names, "choices", "tolerance", "precision", "unit", "language", "answer_type")

    def judge(row: dict[str, Any]) -> bool:
        item = {names.get(field, field): row[field] for field in fields if row.get(field) is not None}
        return verify(response_of(row), item).verdict == "correct"

    return judge


def math_verify() -> Judge:
    """As in its README: the gold is math; letters are searched where the gold is one."""
    import logging

    from math_verify import ExprExtractionConfig, LatexExtractionConfig, StringExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    usual = [LatexExtractionConfig(), ExprExtractionConfig()]
    letters = [StringExtractionConfig(strings=tuple("ABCDEFGHIJ")), *usual]

    def judge(row: dict[str, Any]) -> bool:
        gold = row["gold"]
        if re.fullmatch("[A-J]", gold):
            return bool(verify(parse(gold, letters), parse(response_of(row), letters)))
        marked = gold if "$" in gold or "\\boxed" in gold else f"${gold}$"
        return bool(verify(parse(marked, usual), parse(response_of(row), usual)))

    return judge


def mathruler() -> Judge:
    from mathruler.grader import extract_boxed_content, grade_answer

    def judge(row: dict[str, Any]) -> bool:
        boxed = extract_boxed_content(response_of(row))
        return bool(grade_answer(row["pred"] if boxed in (None, "None") else boxed, row["gold"]))

    return judge


def inspect() -> Judge:
    import asyncio
    from types import SimpleNamespace

    from inspect_ai.scorer import Target, math

    scorer, loop = math(), asyncio.new_event_loop()

    def judge(row: dict[str, Any]) -> bool:
        state = SimpleNamespace(output=SimpleNamespace(completion=response_of(row)))
        score = loop.run_until_complete(scorer(state, Target(row["gold"])))  # type: ignore[arg-type]
        return score is not None and score.value == "C"

    return judge


MAKERS: dict[str, Callable[[], Judge]] = {
    "ours": ours,
    "math-verify": math_verify,
    "mathruler": mathruler,
    "inspect": inspect,
}


def serve(name: str) -> None:
    """Runs a verifier in its own process: rows in, verdicts and seconds out. An exception counts as wrong."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    answers, sys.stdout = sys.stdout, sys.stderr
    judge = MAKERS[name]()

    def safely(row: dict[str, Any]) -> bool:
        try:
            return judge(row)
        except Exception:  # noqa: BLE001  (public verifiers raise anything)
            return False

    for line in sys.stdin:
        rows = json.loads(line)
        start = time.perf_counter()
        right = [safely(row) for row in rows]
        print(json.dumps({"right": right, "seconds": time.perf_counter() - start}), file=answers, flush=True)


class Verifier:
    """A verifier in another process, connected by a pipe."""

    def __init__(self, name: str, python: Path):
        self.name = name
        self.process = subprocess.Popen(
            [str(python), __file__, "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def judge(self, rows: list[dict[str, Any]]) -> tuple[list[bool], float]:
        """Returns which rows are right, and the seconds it took."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(rows).encode() + b"\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline())
        return reply["right"], reply["seconds"]


def rows_of(name: str) -> list[dict[str, Any]]:
    from sophia_cli.io.jsonl import read_records

    return [dict(row) for row in read_records([str(DATA / name)])]


def chunks(rows: list[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


def paired(verifiers: list[Verifier], rows: list[dict[str, Any]]) -> dict[str, tuple[list[bool], float]]:
    """Returns each verifier's verdicts on the rows and its seconds; chunks are given to one after the other."""
    found: dict[str, tuple[list[bool], float]] = {verifier.name: ([], 0.0) for verifier in verifiers}
    for chunk in chunks(rows):
        for verifier in verifiers:
            right, seconds = verifier.judge(chunk)
            found[verifier.name] = (found[verifier.name][0] + right, found[verifier.name][1] + seconds)
    return found


def share(right: list[bool], rows: list[dict[str, Any]], wanted: Callable[[dict[str, Any]], bool]) -> float:
    """Returns the percentage of the wanted rows on which the verdict equals the label."""
    judged = [verdict == row["expected"] for verdict, row in zip(right, rows, strict=True) if wanted(row)]
    return 100 * sum(judged) / len(judged)


def table(verifiers: list[Verifier]) -> tuple[str, float]:
    """Returns the table as Markdown, and our throughput divided by that of math-verify."""
    cases = [row for row in rows_of("verifier_cases.jsonl") if not row.get("convention")]
    probes = [row for row in rows_of("probes.jsonl") if isinstance(row["gold"], str)]
    outputs = rows_of("model_outputs.jsonl.gz")
    for verifier in verifiers:
        verifier.judge(cases[:60])  # imports and caches of their own are not what is measured
    hard, ours_too, real = paired(verifiers, cases), paired(verifiers, probes), paired(verifiers, outputs)
    lines = [
        f"| verifier | public suites ({len(cases)}), % right | false accepts "
        f"| our probes ({len(probes)}), % right | false accepts | MATH-V recall, % | MMMU-Pro recall, % "
        "| public suites, cases/s | real outputs, cases/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for verifier in verifiers:
        name = verifier.name
        figures = [f"{share(hard[name][0], cases, lambda row: True):.1f}", str(false_accepts(hard[name][0], cases))]
        figures += [
            f"{share(ours_too[name][0], probes, lambda row: True):.1f}",
            str(false_accepts(ours_too[name][0], probes)),
        ]
        figures += [f"{share(real[name][0], outputs, official(prefix)):.1f}" for prefix in ("MATH-V:", "MMMU-Pro:")]
        figures += [f"{len(rows) / found[name][1]:,.0f}" for rows, found in ((cases, hard), (outputs, real))]
        lines.append(f"| {NAMES[name]} | {' | '.join(figures)} |")
    return "\n".join(lines), real["math-verify"][1] / real["ours"][1]


def official(prefix: str) -> Callable[[dict[str, Any]], bool]:
    return lambda row: row["source"].startswith(prefix) and row["expected"]


def false_accepts(right: list[bool], rows: list[dict[str, Any]]) -> int:
    return sum(verdict and not row["expected"] for verdict, row in zip(right, rows, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", choices=MAKERS)
    parser.add_argument("--peers", type=Path, help="the Python of the peers' environment")
    parser.add_argument("--write", action="store_true", help="put the table into docs/verifier.md")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return 0
    if options.peers is None:
        parser.error("--peers PYTHON is needed; `make bench-verifier` gives it")
    verifiers = [Verifier(name, Path(sys.executable) if name == "ours" else options.peers) for name in MAKERS]
    text, ratio = table(verifiers)
    text += f"\n\nThroughput on the real outputs: {ratio:.1f} × math-verify (one core, paired)."
    print(text)
    if options.write:
        pages.write(PAGE, text)
    return 0 if ratio >= PAIRED_BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
