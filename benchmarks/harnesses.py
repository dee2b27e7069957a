"""Our verdicts and those of VLMEvalKit's and lmms-eval's rule scorers, on the same answers to rows of the public schemas.

    make bench-harnesses

The answers are in `tests/data/harness_cases.jsonl`. A case has the benchmark, the fields in which its row differs from
`tests/helpers/bench_rows.py`, the model's final answer, and each scorer's verdict: true, false, or null where a
harness asks a model or chooses at random. `why` lists the reasons of a difference (keys of `REASONS`). `--write`
stores the verdicts in that file and rewrites the page. The exit code is 1 if a difference has no reason, or a reason
no difference.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pages

ROOT = Path(__file__).parent.parent
CASES = ROOT / "tests" / "data" / "harness_cases.jsonl"
PAGE = ROOT / "docs" / "harnesses.md"
NAMES = {"vlmevalkit": "VLMEvalKit", "lmms-eval": "lmms-eval"}
REASONS = {
    "spelling": "compares spellings, or parses only some forms: the same value in another form (8,000, 8e3, √3, a set"
    " with its braces, an interval as an inequality) is wrong. Ours compares values.",
    "unit": "an answer with a unit or a degree sign is wrong where the gold has none. Ours accepts it.",
    "case": "a lowercase letter for an option, or a capitalized word, is wrong. Ours ignores the case of options and words.",
    "contains": "an answer that contains the gold (non-planar, 80000), or is contained in it, is right. Ours compares"
    " the whole answer.",
    "nearest": "the option with the smallest edit distance is taken, whatever the answer. Ours: an answer either is "
    "an option or is not.",
    "empty": "an empty answer is right where the gold is a text. Ours: no answer.",
    "rounding": "rounds both sides to two decimals, or truncates decimals where the gold is a whole number. Ours "
    "rounds only where the benchmark says so, to the number of places it gives.",
    "precision": "does not round to the number of places that the row gives (`precision`). Ours does, like the "
    "benchmark's own scorer.",
    "tolerance": "ignores the benchmark's tolerance (DynaMath's 0.001; OlympiadBench's `error`, which is passed as a "
    "text). Ours applies it.",
    "percent": "one hundredth of the gold and 100 times the gold are right. Ours: wrong.",
    "chinese": "Chinese characters are deleted before comparing, so any two words are equal. Ours compares them.",
    "shorter": "tuples are compared only up to the end of the shorter one. Ours compares every element.",
    "algebra": "two formulas are compared by a call that raises (an undefined name), and that counts as wrong. Ours "
    "compares them.",
    "decimals": "a decimal close to an exact gold is wrong. Ours accepts one with at least six digits, all correct.",
    "letter alone": "an option must be its bare letter. Ours also reads (J), J. 9, and an option's value.",
    "list": "a gold that is a list is compared as one text, or not at all. Ours accepts any of its answers, or "
    "requires all, as the benchmark intends.",
}


def cases() -> list[dict[str, Any]]:
    return [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]


def whole(case: dict[str, Any]) -> dict[str, Any]:
    """Returns the case with its complete row and its split of the benchmark."""
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers.bench_rows import row_of

    part, row = row_of(case["benchmark"], case["row"])
    return {"benchmark": case["benchmark"], "part": part, "row": row, "answer": case["answer"]}


def gold_of(case: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Returns our item for the case's row, and our verdict on its answer."""
    from sophia_cli import registry
    from sophia_cli.records import Record
    from sophia_cli.verifier import verify

    full = whole(case)
    item = registry.find("benchmarks", case["benchmark"]).make_item(Record(full["row"]), full["part"])
    response = f"So it is.\n\n\\boxed{{{case['answer']}}}" if case["answer"] else "I cannot tell."
    return item, verify(response, item).verdict


def differs(case: dict[str, Any]) -> bool:
    return any(case[peer] is not None and case[peer] != (case["ours"] == "correct") for peer in NAMES)


def judged(found: list[dict[str, Any]], python: str) -> list[dict[str, Any]]:
    """Returns the cases with all verdicts; the harnesses run in their own environment."""
    lines = "".join(json.dumps(whole(case)) + "\n" for case in found)
    peers = subprocess.run(
        [python, str(ROOT / "benchmarks" / "harness_peers.py")], input=lines, text=True, check=True, stdout=subprocess.PIPE
    )
    said = [json.loads(line) for line in peers.stdout.splitlines()]
    fields = ("benchmark", "row", "answer", "why")
    return [
        {**{field: case[field] for field in fields[:3]}, "ours": gold_of(case)[1], **verdicts, "why": case.get("why", [])}
        for case, verdicts in zip(found, said, strict=True)
    ]


def faults(found: list[dict[str, Any]]) -> list[str]:
    """Lists differences without a reason, reasons without a difference, and unknown reasons."""
    wrong = [f"no reason: {case}" for case in found if differs(case) and not case["why"]]
    wrong += [f"a reason for no difference: {case}" for case in found if not differs(case) and case["why"]]
    return wrong + [f"unknown reason: {case}" for case in found if set(case["why"]) - set(REASONS)]


def page(found: list[dict[str, Any]]) -> str:
    """Returns the tables of docs/harnesses.md."""
    lines = ["| benchmark | answers | VLMEvalKit agrees | lmms-eval agrees |", "|---|---|---|---|"]
    for name in dict.fromkeys(case["benchmark"] for case in found):
        ours = [case for case in found if case["benchmark"] == name]
        lines.append(f"| {name} | {len(ours)} | {agreement(ours, 'vlmevalkit')} | {agreement(ours, 'lmms-eval')} |")
    lines.append(f"| all | {len(found)} | {agreement(found, 'vlmevalkit')} | {agreement(found, 'lmms-eval')} |")
    counts = Counter(why for case in found for why in case["why"])
    lines += ["", "| reason | answers | what the harness does |", "|---|---|---|"]
    lines += [f"| {why} | {counts[why]} | {text} |" for why, text in REASONS.items()]
    lines += ["", "| benchmark | gold | answer | ours | VLMEvalKit | lmms-eval | reason |", "|---|---|---|---|---|---|---|"]
    lines += [row_of_table(case) for case in found if differs(case)]
    return "\n".join(lines)


def agreement(found: list[dict[str, Any]], peer: str) -> str:
    known = [case[peer] == (case["ours"] == "correct") for case in found if case[peer] is not None]
    return f"{sum(known)} of {len(known)}"


def row_of_table(case: dict[str, Any]) -> str:
    item, _ = gold_of(case)
    gold = " or ".join(item["answer"]) if isinstance(item["answer"], list) else str(item["answer"])
    marks = {True: "right", False: "wrong", None: "–"}
    ours = {"correct": "right"}.get(case["ours"], case["ours"].replace("_", " "))
    verdicts = " | ".join(marks.get(case[peer], f"breaks ({case[peer]})") for peer in NAMES)
    cells = [f"`{text}`" if text else "(none)" for text in (gold, case["answer"])]
    return f"| {case['benchmark']} | {' | '.join(cells)} | {ours} | {verdicts} | {', '.join(case['why'])} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=sys.executable, help="a Python with both harnesses")
    parser.add_argument("--write", action="store_true", help="put them into the cases and docs/harnesses.md")
    options = parser.parse_args()
    found = judged(cases(), options.peers)
    for peer, name in NAMES.items():
        print(f"{name}: {agreement(found, peer)} answers judged alike")
    wrong = faults(found)
    print("\n".join(wrong))
    if options.write:
        CASES.write_text("".join(json.dumps(case, ensure_ascii=False) + "\n" for case in found), encoding="utf-8")
        pages.write(PAGE, page(found))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
