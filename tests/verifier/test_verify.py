"""Tests of the rule verifier on every case we have: public test suites, real outputs, our own probes, hostile answers."""

import doctest
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import ENVIRONMENT, SOPHIA, records_of, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_cli.io.jsonl import read_records
from sophia_cli.verifier import rules, verify
from sophia_cli.verifier.normalize import normalize
from sophia_cli.verifier.types import Verdict

DATA = Path(__file__).parent.parent / "data"

DIFFERENCES = {
    7: "French prose around a price; the text ends in `a..`, and no phrase announces an answer",
    12: "`the number is not 10 which is …`: a sentence that denies one number and names another concludes nothing",
    14: "`not it's not 10 it's 1,000.99m²`: two numbers in prose and no phrase; taking the last would be a guess",
    104: "the gold says that 1 = 0",
    117: "the maths is a sum of matrices at the end of `The sum is …`, and a sum in a sentence that concludes nothing",
    118: "as 117, a product of matrices",
    166: "the last box says 255; the sentence after it says 10,455. The last box counts (method.md)",
    177: "two boxes, -2 and 1: the last one counts (method.md); the gold names both",
    210: "the gold's box never closes, and it speaks of W(n) where the answer speaks of W(x)",
    255: "1 - 1/e is not 1 + 1/e: the label follows a bug of its source",
    258: "12:00 is not 1:00: the label follows a bug of its source",
    279: "Chinese prose in which a sum is computed twice; the last sentence is about another amount",
    286: "French: the number stands in the middle of the announced sentence, beside `12 mois`",
    290: "Chinese: the number stands in the middle of the last sentence",
    294: "Hindi: no phrase of that language is known",
    297: "`how many $? just about 1$`: a dollar sign that is neither money nor maths",
    436: "`\\beginboxed` is no LaTeX",
    490: "the answer is given as a_1 = -1, a_2 = 1 and the gold as (-1, 1), in Chinese prose without a phrase",
    492: "the answer is a name in the middle of a sentence",
    552: "a set equated with another spelling of itself",
}
"""The rows of `verifier_cases.jsonl` (house rules aside) on which we differ from the label, each with the reason."""

OFFICIAL_VERDICT_IS_WRONG = {
    117: "1/12 is option D, `\\frac{1}{12}` turn",
    405: "12 cm² is option D",
    406: "28 cm is option B",
    567: "(A) 5 and 8 is option A",
    684: "130 cm is option C",
    752: "30° is option B",
    761: "3ab is option E",
    776: "120 votes: the gold is 120",
    892: "`\\textbf{A}` is A",
    964: "1.5 is option D, 1.5 cm",
    1147: "12 is option B, 12 cm²",
}
"""Right answers of MATH-V that the official verdict refuses: it never looks at the options' values, nor through LaTeX."""

MISSED = {
    1265: "the response ends `Answer: Not listed`; the official extraction picked the letter for it",
    1305: "a response that decays into noise; the official verdict credits a letter that it does not conclude with",
}

DOUBTED = {
    "充分不必要": "a shorter name of the same condition",
    "\\text{right-angled triangle}": "a synonym; a judge's work",
    "A \\cup B": "wrong, but set algebra of symbols is not parsed: could not tell",
    "x>1": "wrong, but the gold joins > and ≠, which algebra does not parse: could not tell",
}


def item_of(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a case as an item. `rounding` of a public suite becomes a precision, `abs_tol` a tolerance."""
    names = {"gold": "answer", "options": "choices", "abs_tol": "tolerance", "rounding": "precision"}
    fields = (*names, "choices", "tolerance", "precision", "unit", "language", "answer_type")
    return {names.get(field, field): row[field] for field in fields if row.get(field) is not None}


def judged(row: dict[str, Any]) -> Verdict:
    boxed = row["kind"] == "answer"
    return verify(f"<think>so</think>\n\\boxed{{{row['pred']}}}" if boxed else row["pred"], item_of(row))


def rows_of(name: str) -> list[dict[str, Any]]:
    return list(read_records([str(DATA / name)]))


@pytest.mark.slow
def test_public_cases_agree_but_for_the_differences_we_list() -> None:
    rows = [row for row in rows_of("verifier_cases.jsonl") if not row.get("convention")]
    verdicts = {row["id"]: (judged(row).verdict == "correct", row["expected"]) for row in rows}
    differing = {number for number, (ours, expected) in verdicts.items() if ours != expected}
    assert differing <= set(DIFFERENCES)
    assert len(differing) <= 0.05 * len(rows)
    assert sum(verdicts[number][0] for number in differing) <= 2, "false accepts"


def test_real_outputs_get_the_official_verdict_or_a_better_one() -> None:
    rows = [row for row in rows_of("model_outputs.jsonl.gz") if row["source"].startswith(("MATH-V:", "MMMU-Pro:"))]
    right = {row["id"] for row in rows if judged(row).verdict == "correct"}
    official = {row["id"] for row in rows if row["expected"]}
    assert official - right == set(MISSED)
    assert right - official == set(OFFICIAL_VERDICT_IS_WRONG)
    for benchmark in ("MATH-V:", "MMMU-Pro:"):
        wanted = {row["id"] for row in rows if row["expected"] and row["source"].startswith(benchmark)}
        assert len(wanted & right) >= 0.97 * len(wanted)


@pytest.mark.slow
def test_probes_of_every_kind_are_judged_as_a_mathematician_would() -> None:
    differing = []
    for row in rows_of("probes.jsonl"):
        verdict = judged(row)
        unknown = verdict.reward is None and row["category"] not in ("exploits", "review")
        if (verdict.verdict == "correct") != row["expected"] or unknown:
            differing.append(row)
    assert {row["pred"] for row in differing} <= set(DOUBTED)
    assert all(row["expected"] or judged(row).reward is None for row in differing), "no false accepts"


def test_the_docstring_shows_what_happens() -> None:
    assert doctest.testmod(rules).failed == 0
    examples = doctest.DocTestFinder().find(verify)[0].examples
    assert len(examples) >= 10


@pytest.mark.parametrize(
    ("answer", "gold", "rule"),
    [
        ("7.0", "7", "number"),
        ("x + 1", "x+1", "same_text"),
        ("(B)", "B", "choice"),
        ("①②", "②①", "statements"),
        ("yes", "Yes", "yes_no"),
        ("3:30 PM", "15:30", "clock"),
        ("2:4", "1:2", "ratio"),
        ("a triangle", "triangle", "words"),
        ("0<x<1", "(0,1)", "interval"),
        ("2, 1", "1, 2", "collection"),
        ("x=5", "5", "equation"),
        ("3\\sqrt{2} cm", "3\\sqrt{2}", "with_unit"),
        ("(x+1)^2", "x^2+2x+1", "math-verify"),
    ],
)
def test_a_verdict_names_the_rule_that_gave_it(answer: str, gold: str, rule: str) -> None:
    found = verify(f"\\boxed{{{answer}}}", {"answer": gold})
    assert (found.verdict, found.verified_by) == ("correct", rule)


def test_any_of_several_golds_is_accepted() -> None:
    for answer, reward in (("4", 1.0), ("four", 1.0), ("2^2", 1.0), ("5", 0.0)):
        assert verify(f"\\boxed{{{answer}}}", {"answer": ["4", "four"]}).reward == reward


@pytest.mark.parametrize(
    ("gold", "verdict"),
    [("", "ungradable"), ([], "ungradable"), (None, "ungradable"), ({"a": 1}, "ungradable"), (True, "wrong")],
)
def test_a_gold_that_says_nothing_is_no_evidence(gold: Any, verdict: str) -> None:
    assert verify("\\boxed{7}", {"answer": gold}).verdict == verdict


@settings(deadline=None)
@given(st.integers(-(10**12), 10**12))
def test_a_whole_number_is_itself_however_it_is_grouped(number: int) -> None:
    for spelled in (f"{number:,}", f"{number:,}".replace(",", "{,}"), f"{number}.0", f"\\text{{{number}}}", f"{number}\\%"):
        assert verify(f"\\boxed{{{spelled}}}", {"answer": str(number)}).verdict == "correct"


@settings(deadline=None)
@given(st.integers(-(10**6), 10**6), st.integers(0, 6), st.integers(-(10**6), 10**6), st.integers(0, 6))
def test_two_decimals_are_equal_when_their_values_are(a: int, places: int, b: int, others: int) -> None:
    left, right = f"{a}e-{places}", f"{b}e-{others}"
    same = a * 10**others == b * 10**places
    assert (verify(f"\\boxed{{{left}}}", {"answer": right}).verdict == "correct") == same


@settings(deadline=None)
@given(st.integers(-500, 500), st.integers(1, 500), st.integers(1, 9))
def test_a_fraction_is_every_multiple_of_itself_and_no_other(top: int, bottom: int, factor: int) -> None:
    gold = f"\\frac{{{top}}}{{{bottom}}}"
    assert verify(f"\\boxed{{\\dfrac{{{top * factor}}}{{{bottom * factor}}}}}", {"answer": gold}).reward == 1.0
    assert verify(f"\\boxed{{\\dfrac{{{top + 1}}}{{{bottom}}}}}", {"answer": gold}).reward == 0.0


def test_a_judge_in_a_process_that_once_held_a_model_tells_wrong_from_out_of_memory() -> None:
    program = "held = bytearray(1 << 30); del held\nfrom sophia_cli.verifier import verify\n"
    program += "print(verify('I', {'answer': 'qqq'}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert "verdict='wrong'" in done.stdout and "math-verify" in done.stdout, done


@settings(deadline=None)
@given(st.lists(st.integers(-99, 99), min_size=2, max_size=6, unique=True), st.randoms())
def test_a_set_has_no_order_and_a_tuple_has(numbers: list[int], random: Any) -> None:
    shuffled = random.sample(numbers, len(numbers))
    spelled, gold = ", ".join(map(str, shuffled)), ", ".join(map(str, numbers))
    assert verify(f"\\boxed{{\\{{{spelled}\\}}}}", {"answer": f"\\{{{gold}\\}}"}).reward == 1.0
    assert verify(f"\\boxed{{({spelled})}}", {"answer": f"({gold})"}).reward == float(shuffled == numbers)


@given(st.text(max_size=120))
@settings(max_examples=300, deadline=None)
def test_tidying_twice_changes_nothing_that_matters_and_nothing_raises(text: str) -> None:
    once = normalize(text)
    assert isinstance(normalize(once), str)
    assert verify(text, {"answer": "qqq"}).verdict in ("wrong", "no_answer", "truncated")


@pytest.mark.parametrize(
    "unit",
    [
        "1,000",
        "1.",
        "1 ",
        "{",
        "\\boxed{",
        "\\frac",
        "$",
        "**",
        " ",
        "\n",
        "A B ",
        "the answer is ",
        "因此",
        "description ",
        "1°",
        "½",
    ],
)
def test_a_long_response_of_anything_is_judged(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    for response in (text, f"\\boxed{{{text}}}", f"The answer is {text}", f"so {text} is the answer"):
        assert verify(response, {"answer": "\\frac{7}{3}"}, seconds=1.0).verdict in ("wrong", "no_answer")


def test_the_same_text_is_right_however_long() -> None:
    assert verify("\\boxed{" + "1" * 100_000 + "}", {"answer": "1" * 100_000}).verdict == "correct"


HOSTILE_CODE = [
    '__import__("os").system("touch pwned")',
    "open('pwned','w').write('x')",
    '\\text{__import__("os").system("touch pwned")}',
    "exec(\"open('pwned','w')\")",
    "eval(compile('open(\"pwned\",\"w\")','','exec'))",
    "(lambda: open('pwned','w'))()",
    "\\input{pwned}",
    "\\write18{touch pwned}",
    "[open('pwned','w') for x in [1]]",
    "Symbol('x').__class__.__mro__[-1].__subclasses__()",
    "f(open('pwned','w'))",
]


@pytest.mark.parametrize("answer", HOSTILE_CODE)
@pytest.mark.parametrize("gold", ["7", "x+1", "(1,2)"])
def test_an_answer_is_never_run_as_code(answer: str, gold: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for response in (f"\\boxed{{{answer}}}", f"The answer is {answer}", answer):
        assert verify(response, {"answer": gold}).reward != 1.0
    assert list(tmp_path.iterdir()) == []


def family(pid: int) -> list[int]:
    """Returns a process and all its descendants."""
    found = [pid]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found += family(int(stat.parent.name))
    return found


def resident(pids: list[int]) -> Iterator[int]:
    """Returns the resident memory of each process, in MiB."""
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        yield from (int(line.split()[1]) >> 10 for line in lines if line.startswith("VmRSS"))


@pytest.mark.slow
def test_hostile_answers_are_harmless(tmp_path: Path) -> None:
    hostile = rows_of("hostile_answers.jsonl.gz")
    rows = []
    for number, case in enumerate(hostile):
        fields = {
            "id": f"h{number}",
            "question": "?",
            "caption_id": f"h{number}/c0",
            "trajectory_tokens": 1,
            "finish_reason": "stop",
        }
        rows.append({**fields, "trajectory_id": f"h{number}/c0/t0", "answer": case["gold"], "trajectory": case["pred"]})
        rows.append({**fields, "trajectory_id": f"h{number}/c0/t1", "answer": "7", "trajectory": "\\boxed{\\frac{14}{2}}"})
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    step = subprocess.Popen(
        [*SOPHIA, "grade", "raw.jsonl", "--workers", "2", "--limit-seconds", "2", "--quiet", "-o", "out.jsonl"],
        cwd=tmp_path,
        env=ENVIRONMENT,
    )
    largest = 0
    while step.poll() is None:
        largest = max([largest, *resident(family(step.pid))])
        time.sleep(0.05)
    assert step.returncode == 0
    assert largest < 1024
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").open(encoding="utf-8")]
    assert [record["trajectory_id"] for record in out] == [row["trajectory_id"] for row in rows]
    assert all(record["verdict"] == "correct" for record in out[1::2])
    for case, record in zip(hostile, out[::2], strict=True):
        expected = ("correct",) if case["name"] in RIGHT else ("wrong", "no_answer", "timeout", "ungradable")
        assert record["verdict"] in expected, case["name"]
    assert {path.name for path in tmp_path.iterdir()} == {"raw.jsonl", "out.jsonl", "out.jsonl.manifest.json"}


RIGHT = {"NUL and surrogate", "rtl/bidi", "digits 100KB same", "nested frac sqrt (surd)", "poly eq simplify"}
"""The hostile cases whose answer is the gold."""


@pytest.mark.slow
def test_a_worker_killed_from_outside_costs_one_error_at_most(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"q{number}",
            "question": "?",
            "caption_id": f"q{number}/c0",
            "trajectory_id": f"q{number}/c0/t0",
            "answer": "x^2+2x+1",
            "trajectory": "\\boxed{(x+1)^2}" if number % 40 else f"\\boxed{{(x+{number})^2-x}}",
            "finish_reason": "stop",
        }
        for number in range(800)
    ]
    write_lines(tmp_path / "raw.jsonl", rows)
    step = subprocess.Popen(
        [*SOPHIA, "grade", "raw.jsonl", "--workers", "2", "--quiet"], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE
    )
    assert step.stdout
    lines = [step.stdout.readline() for _ in range(20)]
    killed = [pid for pid in family(step.pid)[1:]]
    assert killed
    os.kill(killed[0], 9)
    lines += step.stdout.readlines()
    assert step.wait() == 0
    out = records_of(b"".join(lines))
    assert [record["trajectory_id"] for record in out] == [row["trajectory_id"] for row in rows]
    assert sum(record["verdict"] == "error" for record in out) <= 1
    assert sum(record["verdict"] == "correct" for record in out) >= 779


def test_a_script_without_a_main_guard_may_use_it(tmp_path: Path) -> None:
    call = "verify(r'\\boxed{(x+1)^2}', {'answer': 'x^2+2x+1'}).verdict"
    script = f"from sophia_cli.verifier import verify\nprint('once', {call})\n"
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "once correct\n", done.stderr


def test_the_page_about_the_verifier_shows_what_happens() -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "verifier.md"
    blocks = page.read_text(encoding="utf-8").split("```python\n")[1:]
    examples = doctest.DocTestParser().get_doctest(
        "".join(block.split("```")[0] for block in blocks), {}, "page", str(page), 0
    )
    assert len(examples.examples) >= 6
    assert doctest.DocTestRunner().run(examples).failed == 0


def test_the_page_lists_the_rules_in_their_order() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "verifier.md").read_text(encoding="utf-8")
    listed = [
        name
        for line in page.splitlines()
        if line.startswith("| `")
        for name in line.split("|")[1].replace("`", "").split(",")
    ]
    names = list(rules.RULES)
    assert [name.strip() for name in listed if name.strip() in names] == names
