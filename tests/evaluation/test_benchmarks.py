"""Tests of the eight benchmarks: rows of the public schemas become questions, unusable rows are named, right answers are
correct.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.bench_rows import ROWS, write
from helpers.chat_server import ChatServer
from helpers.commands import ENVIRONMENT, records_of, sophia, write_lines

from sophia_cli import registry
from sophia_cli.errors import InputError, RecordError, UsageError
from sophia_cli.evaluation.benchmark_items import parse_benchmarks
from sophia_cli.judge.prompts_and_parsing import parse_answer, parse_parts, whole_question
from sophia_cli.records import Record
from sophia_cli.steps.eval import answer_request
from sophia_cli.verifier import verify

PAPERS_EIGHT = ["dynamath", "mathverse", "mathvision", "mathvista", "mmmu", "mmmu-pro", "mv-math", "olympiadbench"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    for name in ROWS:
        write(name, folder / name)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setitem(ENVIRONMENT, "XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def items_at(given: str) -> dict[str, dict[str, Any]]:
    (benchmark,) = parse_benchmarks(given)
    return {item["id"].removeprefix(f"{benchmark.name}/"): item for item in benchmark.read_items()}


def items(name: str, root: Path) -> dict[str, dict[str, Any]]:
    return items_at(f"{name}={root / name}")


def asked(item: dict[str, Any]) -> list[Any]:
    """Returns the content of the user's turn: texts, and images by their index in the item."""
    content = answer_request(Record(item), "system")[1]["content"]
    return [item["image"].index(part["image"]) + 1 if part["type"] == "image" else part["text"] for part in content]


def test_the_eight_are_the_papers() -> None:
    assert registry.names("benchmarks") == PAPERS_EIGHT
    questions = {name: registry.find("benchmarks", name).QUESTION_COUNT for name in PAPERS_EIGHT}
    assert sum(questions.values()) == 900 + 1730 + 1000 + 788 + 5010 + 3040 + 2009 + 6728
    assert {name for name in PAPERS_EIGHT if registry.find("benchmarks", name).LLM_JUDGED} == {
        "mmmu",
        "mathverse",
        "mv-math",
    }


@pytest.mark.parametrize("name", PAPERS_EIGHT)
def test_right_answers_are_right_and_others_are_wrong(name: str, root: Path) -> None:
    found = [item for item in items(name, root).values() if "error" not in item]
    assert found
    for item in found:
        assert all(Path(image).is_file() for image in item.get("image", []))
        golds = item["answer"] if isinstance(item["answer"], list) else item["answer"].split("\\#\\#")
        for gold in golds:
            assert verify(f"<think>\n…\n</think>\nIt is \\boxed{{{gold}}}.", item).verdict == "correct", (item, gold)
        assert verify("It is \\boxed{77}.", item).verdict == "wrong", item
        assert verify("I cannot see it.", item).verdict == "no_answer", item


def test_images_stand_where_questions_and_options_name_them(root: Path) -> None:
    hint = "Solve the multiple-choice question and end with the letter of the right option in \\boxed{}.\n"
    mmmu = items("mmmu", root)
    assert asked(mmmu["validation_Accounting_1"]) == [hint + "What is in ", 1, "?\nA. a disc\nB. a square"]
    assert asked(mmmu["validation_Accounting_2"])[:5] == [hint + "Is ", 2, " larger than ", 1, "?\nA. a disc\nB. a square"]
    assert asked(mmmu["validation_Accounting_3"]) == [hint + "Which?\nA. ", 1, "\nB. ", 2, "\nC. neither"]
    vision = items("mathvision", root)
    assert asked(vision["1"])[1:] == [1] and asked(vision["5"])[0] == 1
    assert asked(vision["4"])[0] == 1 and "(figure 1) into (figure 2)" in asked(vision["4"])[1]
    assert asked(items("mv-math", root)["4"])[1:] == [1, "与图", 2, "相同吗？"]
    olympiad = items("olympiadbench", root)
    assert asked(olympiad["OE_MM_maths_en_COMP-1"])[1::2] == [1, 2, 1]
    assert asked(olympiad["OE_MM_maths_en_COMP-2"])[1] == 1
    assert asked(olympiad["OE_TO_physics_en_COMP-1"])[0].endswith("A car starts.\nFind $x$.")


def test_options_that_are_drawn_are_not_written(root: Path) -> None:
    pro = items("mmmu-pro", root)["test_History_1"]
    assert len(pro["choices"]) == 10 and all(f"\n{letter}. " not in asked(pro)[-1] for letter in "AJ")
    assert asked(items("mathvision", root)["2"])[-1] == 1
    assert asked(items("mathvision", root)["3"])[-1] == "\nA. $30$\nB. $40$\nC. $50$\nD. $60$\nE. $70$"
    assert asked(items("mathvista", root)["2"])[-1].count("Yes") == 1


def test_prompts_of_olympiadbench_say_what_is_wanted_in_the_language_of_the_question(root: Path) -> None:
    found = items("olympiadbench", root)
    assert "several answers (a number)" in found["OE_MM_maths_en_COMP-2"]["hint"]
    assert "Leave the unit (m/s) out" in found["OE_TO_physics_en_COMP-1"]["hint"]
    chinese = found["OE_TO_maths_zh_CEE-1"]
    assert "多个答案（数值或区间）" in chinese["hint"] and chinese["tolerance"] == [0.1, None, 0.2]
    assert verify("\\boxed{1.05, (0,1), 2.1}", chinese).reward == 1.0
    assert verify("\\boxed{1.05, (0,2), 2.1}", chinese).reward == 0.0
    assert verify("\\boxed{1.05, (0,1), 2.3}", chinese).reward == 0.0


def test_what_a_row_says_of_its_answer_counts(root: Path) -> None:
    """Its precision, tolerance and unit, and whether the order of several answers matters."""
    vista, dyna = items("mathvista", root)["3"], items("dynamath", root)["2-variant1"]
    said = [verify(f"\\boxed{{{answer}}}", vista).reward for answer in ("1.5", "1.52", "1.5 years", "1.6")]
    assert said == [1.0, 1.0, 1.0, 0.0]
    assert [verify(f"\\boxed{{{said}}}", dyna).reward for said in ("1.1255", "1.127")] == [1.0, 0.0]
    row = {**ROWS["olympiadbench"]()["OE_TO_physics_en_COMP@train"][0], "unit": "$\\mathrm{m/s}$"}
    olympiad = registry.find("benchmarks", "olympiadbench")
    speed = olympiad.make_item(Record(row), "OE_TO_physics_en_COMP@train")
    assert verify("\\boxed{3 \\mathrm{~m/s}}", speed).reward == verify("\\boxed{3.05}", speed).reward == 1.0
    pairs = {**row, "unit": None, "answer_type": "Tuple", "is_multiple_answer": True, "final_answer": ["$(1,2),(2,1)$"]}
    unordered = olympiad.make_item(Record(pairs), "OE_TO_physics_en_COMP@train")
    assert (
        verify("\\boxed{(2,1),(1,2)}", unordered).reward == 1.0 and verify("\\boxed{(2,1),(1,1)}", unordered).reward == 0.0
    )
    mmmu = registry.find("benchmarks", "mmmu")
    numbers = {**ROWS["mmmu"]()["Basic_Medical_Science@validation"][1], "image_1": "data:,", "answer": "[0, 1]"}
    assert verify("\\boxed{1}", mmmu.make_item(Record(numbers), "")).reward == 0.0


def test_categories_and_clusters(root: Path) -> None:
    variants = items("dynamath", root)
    assert len(variants) == 30 and {item["cluster"] for item in variants.values()} == {"1", "2", "3"}
    assert variants["2-variant7"]["answer"] == "7.125" and variants["2-variant7"]["tolerance"] == 0.001
    assert verify("", variants["3-variant1"]).verdict == "no_answer"  # the official scorer takes it for right
    verse = items("mathverse", root)
    assert set(verse) == {"5", "10", "15"} and verse["10"]["answer"] == "118°" and verse["15"]["answer"] == "B, C"
    assert [item.get("geometry") for item in items("mathvision", root).values()] == [
        None,
        "plane",
        "plane",
        "solid",
        None,
        None,
    ]
    assert {item["images"] for item in items("olympiadbench", root).values() if "error" not in item} == {"with", "without"}
    assert items("mmmu", root)["validation_Basic_Medical_Science_1"]["subject"] == "Basic_Medical_Science"


BAD: list[tuple[str, str, dict[str, Any], str]] = [
    ("mmmu", "Accounting@validation", {"image_1": None}, "`image_1` contains no image"),
    (
        "mmmu",
        "Accounting@validation",
        {"question": "Is <image 2> <image 1>?", "image_2": None},
        "`image_2` contains no image",
    ),
    ("mmmu", "Accounting@validation", {"options": "['<image 3>', 'b']"}, "`image_3` contains no image"),
    ("mmmu", "Accounting@validation", {"options": "{[]: 1}"}, "`options` is a text without a list"),
    ("mmmu", "Accounting@validation", {"options": "['a', "}, "`options` is a text without a list"),
    ("mmmu", "Accounting@validation", {"options": "{'a': 1}"}, "`options` is not a list"),
    ("mmmu", "Accounting@validation", {"options": "['a disc' 'a square']"}, "with a missing comma"),
    ("mmmu", "Accounting@validation", {"answer": "C"}, "the options are A to B"),
    ("mmmu", "Basic_Medical_Science@validation", {"answer": "['']"}, "`answer` contains an empty answer"),
    ("mathvista", "default@testmini", {"question_type": "multi_choice"}, "`choices` is empty"),
    ("mv-math", "*.json", {"question": "See <image_3>."}, "names <image_3>, but there are 2 images"),
    ("olympiadbench", "OE_MM_maths_en_COMP@train", {"error": "inf"}, "`error`"),
    ("olympiadbench", "OE_MM_maths_en_COMP@train", {"error": "-0.1"}, "`error`"),
    ("olympiadbench", "OE_MM_maths_en_COMP@train", {"error": "1,2,3"}, "3 tolerances for 1 answers"),
    ("olympiadbench", "OE_MM_maths_en_COMP@train", {"question": "<image_2>", "image_2": None}, "names <image_2>"),
    ("mmmu", "Accounting@validation", {"question_type": "essay"}, "`question_type`"),
    ("mmmu-pro", "vision@test", {"answer": "?"}, "`answer` is '?'"),
    ("mathvista", "default@testmini", {"decoded_image": None}, "`decoded_image` contains no image"),
    ("mathvista", "default@testmini", {"precision": "one"}, "`precision`"),
    ("mathvista", "default@testmini", {"precision": float("nan")}, "`precision`"),
    ("mathverse", "testmini@testmini", {"problem_version": "Vision Only", "answer": None}, "`answer` is null"),
    ("dynamath", "default@sample_variant1", {"ground_truth": ""}, "`ground_truth` is empty"),
    ("mathvision", "default@test", {"question": 3}, "`question` is a number"),
    ("mv-math", "*.json", {"input_image": "1.png"}, "`input_image` is not a list"),
    ("mv-math", "*.json", {"answer_type": "poem"}, "`answer_type`"),
    ("olympiadbench", "OE_MM_maths_en_COMP@train", {"error": "small"}, "`error`"),
    ("olympiadbench", "OE_MM_maths_en_COMP@train", {"image_1": None, "image_2": None}, "`image_1` contains no image"),
    ("olympiadbench", "OE_MM_maths_en_COMP@train", {"image_2": None}, "names <img_3370>, but there are 1 images"),
    ("olympiadbench", "OE_TO_physics_en_COMP@train", {"context": ["A car"]}, "`context` is a list"),
    ("olympiadbench", "OE_TO_physics_en_COMP@train", {"final_answer": ["1", "2"]}, "`final_answer` contains 2 answers"),
    ("olympiadbench", "OE_MM_maths_en_COMP@train", {"final_answer": None}, "`final_answer` is empty"),
]


@pytest.mark.parametrize(("name", "part", "fields", "said"), BAD)
def test_a_row_that_cannot_be_asked_names_its_field(name: str, part: str, fields: dict[str, Any], said: str) -> None:
    row = Record({**ROWS[name]()[part][0], **fields}, "rows:1")
    row = Record(
        {field: "data:," if isinstance(value, dict) and "bytes" in value else value for field, value in row.items()}
    )
    with pytest.raises(RecordError, match=said.replace("?", "\\?")):
        registry.find("benchmarks", name).make_item(row, part)


def asked_of(name: str, part: str, fields: dict[str, Any]) -> dict[str, Any]:
    row = {**ROWS[name]()[part][0], **fields}
    plain = {
        field: f"{field}.png" if isinstance(value, dict) and "bytes" in value else value for field, value in row.items()
    }
    item = registry.find("benchmarks", name).make_item(Record(plain), part)
    assert item is not None
    return item


def test_an_image_is_the_one_that_its_field_names() -> None:
    """Also if the field before it is null."""
    fields = {"image_1": None, "image_2": "two.png", "image_3": "three.png", "question": "See <image_3>, then <image_2>."}
    item = asked_of("olympiadbench", "OE_MM_maths_en_COMP@train", fields)
    assert asked(item)[-4:] == [2, ", then ", 1, "."] and item["image"] == ["two.png", "three.png"]


def test_options_as_odd_as_the_rows_have_them() -> None:
    same = {"question_type": "multi_choice", "choices": ["2", "2", "1"], "answer": "2", "answer_type": "text"}
    twice = asked_of("mathvista", "default@testmini", same)
    assert [verify(f"\\boxed{{{said}}}", twice).reward for said in ("A", "B", "2", "C", "1")] == [1, 1, 1, 0, 0]
    drawn = asked_of("mathvision", "default@test", {"options": [""] * 5, "answer": "B"})
    assert drawn["choices"] == list("ABCDE") and verify("\\boxed{B}", drawn).reward == 1.0
    marked = asked_of("mathvision", "default@test", {"options": ["<image1>", "<image2>"], "answer": "B"})
    assert marked["choices"] == ["(figure 1)", "(figure 2)"]
    shown = asked_of("mathvision", "default@test", {"question": "(A) 3 (B) 4", "options": ["3", "4"], "answer": "B"})
    assert str(asked(shown)).count("4") == 1
    quoted = asked_of("mmmu", "Accounting@validation", {"options": """["the 'first' 'second'", 'b']"""})
    assert quoted["choices"] == ["the 'first' 'second'", "b"]


def test_mathvista_rounds_as_its_own_scorer_does() -> None:
    item = asked_of("mathvista", "default@testmini", {"answer": "1.5", "answer_type": "float", "precision": 1.0})
    said = ("1.54", "1.45", "1.449", "1.55", "1.6")
    assert [verify(f"\\boxed{{{each}}}", item).reward for each in said] == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_a_bad_row_is_a_record_with_its_id_and_the_others_are_asked(root: Path, tmp_path: Path) -> None:
    done = sophia("eval", "--bench", f"mmmu-pro={root / 'mmmu-pro'}", "--max-tokens", "9", cwd=tmp_path, code=3)
    rows = records_of(done.stdout)
    assert {row["sample_id"] for row in rows} == {
        f"mmmu-pro/test_{name}/s0" for name in ("History_1", "History_2", "Math_7")
    }
    (bad,) = [row for row in rows if "error" in row]
    assert bad["id"] == "mmmu-pro/test_History_2" and "`answer` is 'K'" in bad["error"] and bad["benchmark"] == "mmmu-pro"


def test_several_benchmarks_and_a_file_of_ones_own(root: Path, lab: Path, tmp_path: Path) -> None:
    own = [{**row, "image": str(lab / row["image"]), "kind": "own"} for row in records_of(lab / "caps.jsonl")[::2]]
    write_lines(tmp_path / "own.jsonl", own)
    names = f"mathvision={root / 'mathvision'},dynamath={root / 'dynamath'},own.jsonl"
    options = ["--summary", "s.json", "--model-card", "c.md", "--by", "kind", "--paper", "-n", "2", "--max-tokens", "60"]
    done = sophia("eval", "--bench", names, *options, "-o", "out.jsonl", cwd=tmp_path, code=3)
    rows, figures = records_of(tmp_path / "out.jsonl"), json.loads((tmp_path / "s.json").read_text())
    assert {row["id"].partition("/")[0] for row in rows} == {"mathvision", "dynamath", "own.jsonl"}
    assert len(rows) == 2 * (6 + 30 + 8) and {row["benchmark"] for row in rows} == {"mathvision", "dynamath", "own.jsonl"}
    parts = {part["benchmark"]: part for part in figures["benchmarks"]}
    assert figures["accuracy"] == pytest.approx(sum(part["accuracy"] for part in parts.values()) / 3)
    assert parts["mathvision"]["failed"] == 2 and parts["mathvision"]["n"] == 10 and parts["dynamath"]["questions"] == 30
    assert "worst_case" in parts["dynamath"] and "worst_case" not in parts["mathvision"]
    assert set(parts["own.jsonl"]["by"]) == {"kind"} and parts["own.jsonl"]["by"]["kind"]["own"]["n"] == 16
    graded = [row["reward"] for row in rows if row["benchmark"] == "own.jsonl"]
    assert parts["own.jsonl"]["accuracy"] == sum(graded) / 16 > 0
    card, shown = (tmp_path / "c.md").read_text(), done.stderr.decode()
    assert f"| own.jsonl | {100 * sum(graded) / 16:.1f}% |" in card and "pass@2" in card
    assert "57.28" in shown and "57.28" in card and figures["paper"]["InternVL3.0-8B"]["SOPHIA"] == 44.71
    again = sophia("eval", "--bench", names, *options, "-o", "out.jsonl", cwd=tmp_path, code=3)
    assert len(records_of(tmp_path / "out.jsonl")) == len(rows) and b"resuming" in again.stderr
    kept = json.loads((tmp_path / "s.json").read_text())
    assert kept["benchmarks"] == figures["benchmarks"]


def test_a_benchmark_is_read_from_a_clone_of_its_repository(root: Path, tmp_path: Path) -> None:
    """Read as `datasets` reads it: its card names configs and splits."""
    write("mmmu-pro", tmp_path / "clone")
    (tmp_path / "clone/vision").rename(tmp_path / "clone/data")
    card = "---\nconfigs:\n- config_name: vision\n  data_files:\n  - split: test\n    path: data/test.parquet\n---\n"
    (tmp_path / "clone/README.md").write_text(card)
    (cloned,) = parse_benchmarks(f"mmmu-pro={tmp_path / 'clone'}")
    fields = [{**item, "error": ""} for item in cloned.read_items()]
    assert fields == [{**item, "error": ""} for item in items("mmmu-pro", root).values()]


def test_a_clone_is_read_by_the_hubs_file_names_and_missing_splits_are_reported(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("mmmu", tmp_path / "clone")
    for config in ("Accounting", "Basic_Medical_Science"):
        whole = tmp_path / "clone" / config / "validation.parquet"
        whole.rename(whole.with_name("validation-00000-of-00001.parquet"))
    (tmp_path / "clone/README.md").write_text("---\nlicense: mit\n---\n")
    assert set(items_at(f"mmmu={tmp_path / 'clone'}")) == set(items("mmmu", root))
    assert "holds 2 of 30 splits" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="give a copy of"):
        items_at(f"mmmu={tmp_path / 'empty'}")


def test_one_file_that_may_be_of_several_parts_goes_by_its_folder(root: Path, tmp_path: Path) -> None:
    file = root / "olympiadbench/OE_TO_maths_zh_CEE/train.parquet"
    (name,) = items_at(f"olympiadbench={file}")
    assert name.startswith("OE_TO_maths_zh_CEE")
    (tmp_path / "train.parquet").write_bytes(file.read_bytes())
    with pytest.raises(UsageError, match="may belong to several splits"):
        items_at(f"olympiadbench={tmp_path / 'train.parquet'}")


def test_missing_splits_of_a_copy_are_reported(root: Path, tmp_path: Path) -> None:
    done = sophia("eval", "--bench", f"mmmu={root / 'mmmu'}", "--max-tokens", "5", cwd=tmp_path)
    assert "holds 2 of 30 splits" in done.stderr.decode() and "Sociology@validation" in done.stderr.decode()
    assert "in the paper a model judged mmmu" in done.stderr.decode()


@pytest.mark.parametrize("names", ["mathvison", "mathvision=nowhere", "own.jsonl", "mmmu,mmmu"])
def test_what_is_no_benchmark_is_refused(names: str) -> None:
    with pytest.raises(UsageError):
        parse_benchmarks(names)


def test_an_id_that_comes_twice_is_named(root: Path, tmp_path: Path) -> None:
    rows = [{**row, "decoded_image": "x.png"} for row in ROWS["mathvision"]()["default@test"][:1]]
    write_lines(tmp_path / "rows.jsonl", [*rows, *rows])
    done = sophia("eval", "--bench", "mathvision=rows.jsonl", cwd=tmp_path, code=3)
    assert "rows.jsonl:2: id mathvision/1 is also at rows.jsonl:1" in done.stderr.decode()


def saying(text: str) -> ChatServer:
    return ChatServer(says=lambda body: text)


def test_a_judge_is_asked_where_the_paper_asked_one_and_both_verdicts_stay(root: Path, tmp_path: Path) -> None:
    names = f"mmmu={root / 'mmmu'},mathvision={root / 'mathvision'}"
    with (
        ChatServer(says=lambda body: "It is \\boxed{A}.") as policy,
        ChatServer(says=lambda body: "Verdict: correct") as judge,
    ):
        options = ["-m", "m", "--base-url", policy.url, "--judge", "m", "--judge-base-url", judge.url, "--summary", "s.json"]
        done = sophia("eval", "--bench", names, *options, "-o", "out.jsonl", cwd=tmp_path, code=3)
        assert len(policy.served) == 5 + 5 and len(judge.served) == 5
        assert "the paper had a model judge" not in done.stderr.decode()
        sophia("eval", "--bench", names, *options, "-o", "all.jsonl", "--judge-all", cwd=tmp_path, code=3)
        assert len(judge.served) == 5 + 5 + 5
    rows = {row["id"]: row for row in records_of(tmp_path / "out.jsonl")}
    overruled = rows["mmmu/validation_Accounting_3"]
    assert (overruled["rules_verdict"], overruled["judge_verdict"], overruled["verdict"]) == ("wrong", "correct", "correct")
    assert "judge_verdict" not in rows["mathvision/1"] and rows["mathvision/1"]["verdict"] == "wrong"
    mmmu = {part["benchmark"]: part for part in json.loads((tmp_path / "s.json").read_text())["benchmarks"]}["mmmu"]
    assert mmmu["accuracy"] == 1.0
    assert mmmu["rules_and_judge"] == {"n": 5, "judged": 5, "rules": 0.4, "judge": 1.0, "both": 0.4, "either": 1.0}


def test_an_answer_that_rules_do_not_find_is_extracted_by_the_judge(root: Path, tmp_path: Path) -> None:
    """As in the paper; the rules then grade the extracted answer."""

    def says(body: dict[str, Any]) -> str:
        return "It settles on a half.\n**Answer: 0.5**" if "No figure" in str(body["messages"]) else "Answer: none."

    names = f"mathvision={root / 'mathvision'}"
    with saying("A half, I should think") as policy, ChatServer(says=says) as judge:
        options = ["-m", "m", "--base-url", policy.url, "--judge", "m", "--judge-base-url", judge.url, "--summary", "s.json"]
        done = sophia("eval", "--bench", names, *options, "-o", "out.jsonl", cwd=tmp_path, code=3)
        assert len(judge.served) == 5 and all("I should think" in str(body["messages"]) for body in judge.served)
        sophia("eval", "--bench", names, *options, "-o", "out.jsonl", cwd=tmp_path, code=3)
        assert len(judge.served) == 5  # what is done is not asked again
    rows = {row["id"]: row for row in records_of(tmp_path / "out.jsonl") if "error" not in row}
    found = rows.pop("mathvision/5")
    assert (found["extracted"], found["extracted_by"], found["verdict"], found["reward"]) == ("0.5", "m", "correct", 1.0)
    assert "judge_verdict" not in found and all("extracted_by" not in row for row in rows.values())
    assert {row["verdict"] for row in rows.values()} == {"no_answer"}
    figures = json.loads((tmp_path / "s.json").read_text())
    assert figures["accuracy"] == figures["extracted"] == 0.2 and figures["unreadable"] == 1.0  # by the rules
    assert found["rules_verdict"] == "no_answer" and "rules_and_judge" not in figures
    assert "extracted" in done.stderr.decode()


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("Answer: 12 cm", "12 cm"),
        ("It is so.\n\n**Answer:** (B)\n", "(B)"),
        ("<think>Answer: 1</think>\nanswer : x = {1, 2}", "x = {1, 2}"),
        ("Answer: none.", None),
        ("Answer: `none`", None),
        ("Answer: none (it does not settle)", None),
        ("Answer: N/A", None),
        ("Answer: nonagon", "nonagon"),
        ("Answer: 3\nOr 4, perhaps.", None),
        ("The answer is 3", None),
        ("", None),
        ("<think>Answer: 3", None),
    ],
)
def test_only_an_answer_in_the_last_line_counts(said: str, answer: str | None) -> None:
    assert parse_answer(said) == answer


def test_a_judge_reads_the_whole_question_of_one_that_is_drawn(root: Path, tmp_path: Path) -> None:
    with (
        ChatServer(says=lambda body: "It is \\boxed{A}.") as policy,
        ChatServer(says=lambda body: "Verdict: wrong") as judge,
    ):
        options = ["-m", "m", "--base-url", policy.url, "--judge", "m", "--judge-base-url", judge.url]
        sophia("eval", "--bench", f"mathverse={root / 'mathverse'}", *options, cwd=tmp_path)
        asked_of_judge = [body["messages"][0]["content"] for body in judge.served]
    options = items("mmmu", root)["validation_Accounting_2"]
    assert whole_question(options).endswith("?\nA. a disc\nB. a square")
    assert len(asked_of_judge) == 3 and all("What is the angle?" in str(text) for text in asked_of_judge)


def test_what_is_asked_can_be_changed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "system.txt").write_text("Be brief.")
    options = ["--prompt", "system.txt", "--hint", "In one word.", "--dry-run"]
    shown = sophia("eval", "--bench", f"mathvision={root / 'mathvision'}", *options, cwd=tmp_path).stderr.decode()
    assert "Be brief." in shown and "In one word.\nHow many discs?" in shown and "boxed" not in shown
    for wrong in (["--judge-all"], ["--data", str(root)], ["-o", "s.json", "--summary", "s.json"]):
        sophia("eval", "--bench", f"mathvision={root / 'mathvision'}", *wrong, cwd=tmp_path, code=2)


def test_a_judge_counts_the_parts_of_an_answer_in_several(root: Path, tmp_path: Path) -> None:
    def says(body: dict[str, Any]) -> str:
        return "Parts: 1/2" if "Parts:" in str(body["messages"]) else "Verdict: correct"

    with saying("It is \\boxed{3}.") as policy, ChatServer(says=says) as judge:
        options = ["-m", "m", "--base-url", policy.url, "--judge", "m", "--judge-base-url", judge.url, "--summary", "s.json"]
        done = sophia("eval", "--bench", f"mv-math={root / 'mv-math'}", *options, cwd=tmp_path)
    rows = {row["id"]: row for row in records_of(done.stdout)}
    several = rows["mv-math/3"]
    assert (several["judge_parts_right"], several["judge_parts"], several["verdict"], several["reward"]) == (
        1,
        2,
        "wrong",
        0.0,
    )
    assert rows["mv-math/1"]["verdict"] == "correct" and "judge_parts" not in rows["mv-math/1"]
    figures = json.loads((tmp_path / "s.json").read_text())
    assert figures["parts"] == {"n": 1, "right": 0.5} and figures["accuracy"] == 0.75


@pytest.mark.parametrize(
    ("said", "parts"),
    [
        ("Both.\nParts: 2/2", (2, 2)),
        ("**Parts: 0 / 3**", (0, 3)),
        ("Parts: 3/2", None),
        ("Parts: 0/0", None),
        ("Parts: unsure", None),
        ("Parts: 1/2\nso be it", None),
        ("<think>Parts: 1/2", None),
    ],
)
def test_only_a_share_in_the_last_line_counts(said: str, parts: tuple[int, int] | None) -> None:
    assert parse_parts(said) == parts


@pytest.mark.parametrize("said", ["3, 4", "(1) 3; (2) 4"])
def test_rules_alone_do_not_judge_an_answer_in_several_parts(said: str, root: Path, tmp_path: Path) -> None:
    """Such answers get no verdict: if only the correct ones counted, accuracy would be 100%."""
    options = ["-m", "m", "--summary", "s.json", "--base-url"]
    with saying(f"It is \\boxed{{{said}}}.") as policy:
        done = sophia("eval", "--bench", f"mv-math={root / 'mv-math'}", *options, policy.url, cwd=tmp_path)
    rows = {row["id"]: row for row in records_of(done.stdout)}
    assert (rows["mv-math/3"]["verdict"], rows["mv-math/3"]["reward"]) == ("ungradable", None)
    assert rows["mv-math/1"]["verdict"] == "wrong"
    assert json.loads((tmp_path / "s.json").read_text())["ungraded"] == 1 and "cannot tell" in done.stderr.decode()


def test_shards_are_the_whole_and_one_file_is_the_part_it_is_named_after(root: Path, tmp_path: Path) -> None:
    names = f"mathvision={root / 'mathvision'},dynamath={root / 'dynamath/default/sample_variant3.parquet'}"
    found = []
    for part in range(2):
        shard = sophia("eval", "--bench", names, "--max-tokens", "4", "--shard", f"{part}/2", cwd=tmp_path, code=None)
        found += [row["sample_id"] for row in records_of(shard.stdout)]
    assert len(found) == len(set(found)) == 6 + 3 and "dynamath/2-variant3/s0" in found


def test_other_names_of_the_same_rows_are_another_run(root: Path, tmp_path: Path) -> None:
    rows = f"{root / 'mathvision/default/test.parquet'}"
    sophia("eval", "--bench", f"mathvision={rows}", "--max-tokens", "4", "-o", "out.jsonl", cwd=tmp_path, code=3)
    done = sophia("eval", "--bench", f"mathvista={rows}", "--max-tokens", "4", "-o", "out.jsonl", cwd=tmp_path, code=2)
    assert "benchmarks" in done.stderr.decode()
