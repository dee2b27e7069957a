"""Tests of `sophia decontaminate`: records that overlap a benchmark are dropped and named, all others are unchanged."""

import io
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from helpers.chat_server import ChatServer
from helpers.commands import records_of, sophia, write_lines
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from sophia_cli.decontamination.image_hash import ImageHashCache, image_key, perceptual_hash
from sophia_cli.decontamination.text_overlap import TextIndex, split_words

QUESTION = "In triangle ABC the angle at A is 40 degrees and AB equals AC. What is the angle at B?"
CHINESE = "如图所示，在三角形ABC中，角A等于40度，且AB等于AC，求角B的度数。"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder for this test, used by this process and its children."""
    import conftest

    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setitem(conftest.ENVIRONMENT, "XDG_CACHE_HOME", str(folder))
    return folder


def drawing(path: Path, seed: int) -> Path:
    """A line drawing that differs from those of other seeds."""
    draw = random.Random(seed)
    image = Image.new("RGB", (300, 200), "white")
    points = [(draw.randrange(10, 290), draw.randrange(10, 190)) for _ in range(4)]
    ImageDraw.Draw(image).polygon(points, outline="black", width=4)
    image.save(path)
    return path


def item(name: str, question: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "question": question, "answer": "70", **fields}


def kept(folder: Path, items: list[dict[str, Any]], bench: list[dict[str, Any]], *options: str, code: int = 0) -> list[str]:
    """Returns the ids that remain."""
    write_lines(folder / "items.jsonl", items)
    write_lines(folder / "bench.jsonl", bench)
    done = sophia("decontaminate", "items.jsonl", "--against", "bench.jsonl", *options, cwd=folder, code=code)
    rows = {json.dumps(row) for row in items}
    out = records_of(done.stdout)
    assert all(json.dumps(row) in rows for row in out if "error" not in row)
    return [row["id"] for row in out]


def test_questions_that_share_their_words_are_dropped_whatever_their_case_width_and_points(tmp_path: Path) -> None:
    items = [
        item("shouted", QUESTION.upper().replace(".", " !")),
        item("wide", CHINESE.replace("ABC", "ＡＢＣ").replace("，", " ")),
        item("inside", f"<image> Look at the figure, then answer. {QUESTION} Give a number of degrees."),
        item("other", "How many prime numbers lie between one hundred and two hundred, both left out?"),
        item(
            "preamble", "In triangle ABC the angle at A is given by its sine, and its sides are x, 2x and 12; find x then."
        ),
        item("chinese", "如图所示，在三角形ABC中，D是边BC的中点，E在AD上，AE比ED等于2比1，求两个面积之比。"),
        item("short", "What is x?"),
        item("short-other", "What is y?"),
    ]
    bench = [item("1", QUESTION), item("2", CHINESE), item("3", "what is X")]
    assert kept(tmp_path, items, bench) == ["other", "preamble", "chinese", "short-other"]


def test_images_that_look_the_same_are_dropped_and_others_are_not(tmp_path: Path) -> None:
    originals = [drawing(tmp_path / f"{seed}.png", seed) for seed in range(12)]
    with Image.open(originals[0]) as image:
        image.resize((150, 100)).save(tmp_path / "small.jpg", quality=60)
        image.convert("L").save(tmp_path / "grey.png")
        clear = image.convert("RGBA")
        clear.putdata([(0, 0, 0, 0) if pixel[:3] == (255, 255, 255) else pixel for pixel in clear.get_flattened_data()])
        clear.save(tmp_path / "clear.png")
        data = io.BytesIO()
        image.save(data, "PNG")
    names = {"small": "small.jpg", "grey": "grey.png", "clear": "clear.png", "two": ["5.png", "0.png"], "other": "7.png"}
    items = [item(name, f"Question {name}?", image=image) for name, image in names.items()]
    items += [item("none", "A question without an image?")]
    bench = [item("b0", "What?", image="0.png"), item("b1", "Which?", image="1.png")]
    assert kept(tmp_path, items, bench) == ["other", "none"]
    assert kept(tmp_path, items, bench, "--match", "text") == [row["id"] for row in items]
    far = [seed for seed in range(1, 12) if perceptual_hash(str(originals[seed])) != perceptual_hash(str(originals[0]))]
    assert len(far) == 11


def test_match_both_asks_for_words_and_image_of_one_item(tmp_path: Path) -> None:
    for seed in range(3):
        drawing(tmp_path / f"{seed}.png", seed)
    items = [
        item("both", QUESTION, image="0.png"),
        item("template", QUESTION, image="2.png"),
        item("crossed", QUESTION, image="1.png"),
    ]
    bench = [item("b0", QUESTION, image="0.png"), item("b1", "Another thing altogether?", image="1.png")]
    assert kept(tmp_path, items, bench, "--match", "both") == ["template", "crossed"]
    assert kept(tmp_path, items, bench) == []


def test_every_pair_is_named_and_written_and_every_record_of_an_item_goes_with_it(lab: Path, tmp_path: Path) -> None:
    items = {row["id"]: row for row in records_of(lab / "caps.jsonl")}
    taken = list(items)[:3]
    bench = [{**items[name], "id": f"bench-{name}", "image": str(lab / items[name]["image"])} for name in taken]
    for row in bench:
        del row["caption_id"]
    write_lines(tmp_path / "bench.jsonl", bench)
    done = sophia(
        "decontaminate", "traj.jsonl", "--against", str(tmp_path / "bench.jsonl"), "--match", "image", "--report",
        str(tmp_path / "pairs.jsonl"), "-o", str(tmp_path / "clean.jsonl"), cwd=lab,
    )  # fmt: skip
    rows = records_of(lab / "traj.jsonl")
    assert records_of(tmp_path / "clean.jsonl") == [row for row in rows if row["id"] not in taken]
    pairs = records_of(tmp_path / "pairs.jsonl")
    assert {(pair["id"], pair["against_id"]) for pair in pairs} >= {(name, f"bench-{name}") for name in taken}
    assert len(pairs) == len({(pair["id"], pair["against_id"], pair["by"]) for pair in pairs})
    for name in taken:
        assert f"{name} dropped: image as bench-{name}" in done.stderr.decode()
    manifest = json.loads((tmp_path / "clean.jsonl.manifest.json").read_text())
    assert manifest["dropped"]["dropped"] == sum(row["id"] in taken for row in rows)


def test_an_image_is_hashed_once_and_again_when_its_file_changes(tmp_path: Path, cache: Path) -> None:
    path = drawing(tmp_path / "a.png", 1)
    items, bench = [item("a", "Where?", image="a.png")], [item("b", "When?", image="b.png")]
    drawing(tmp_path / "b.png", 2)
    assert kept(tmp_path, items, bench) == ["a"]
    looks = ImageHashCache(cache / "sophia" / "image_hashes.sqlite")
    assert looks.get_hash(str(path)) == perceptual_hash(str(path))
    looks.put_hash(str(path), perceptual_hash(str(tmp_path / "b.png")))  # what is in the cache is believed
    assert kept(tmp_path, items, bench) == []
    drawing(path, 3)
    os.utime(path, ns=(1, 1))
    assert kept(tmp_path, items, bench) == ["a"]


def test_what_cannot_be_looked_at_is_named_and_is_not_taken_for_clean(tmp_path: Path) -> None:
    drawing(tmp_path / "a.png", 1)
    (tmp_path / "text.png").write_text("no image")
    items = [item("gone", "Where?", image="gone.png"), item("text", "When?", image="text.png"), item("good", "Why?")]
    items += [{"id": "before", "error": "no caption"}]
    bench = [item("b", "Which?", image="a.png")]
    assert kept(tmp_path, items, bench, code=3) == ["gone", "text", "good", "before"]
    done = sophia("decontaminate", "items.jsonl", "--against", "bench.jsonl", cwd=tmp_path, code=3)
    assert [row.get("error", "")[:20] for row in records_of(done.stdout)] == [
        "image gone.png canno", "image text.png canno", "", "no caption",
    ]  # fmt: skip
    assert kept(tmp_path, items[2:3], [*bench, item("broken", "How?", image="text.png")], code=3) == ["good"]


def test_a_judge_keeps_what_it_tells_apart(tmp_path: Path) -> None:
    items = [item("same", QUESTION), item("numbers", QUESTION.replace("40", "50")), item("odd", QUESTION + " Say why.")]

    def answer(body: dict[str, Any]) -> str:
        text = body["messages"][-1]["content"]
        assert "</first>" in text and QUESTION in text
        return "Verdict: different" if "50 degrees" in text else "Verdict: same" if "Say why" not in text else "Hm."

    with ChatServer(says=answer) as server:
        options = ("--judge", "m", "--base-url", server.url, "--report", "pairs.jsonl")
        assert kept(tmp_path, items, [item("b", QUESTION)], *options) == ["numbers"]
    judged = {pair["id"]: (pair["judge"], pair["dropped"]) for pair in records_of(tmp_path / "pairs.jsonl")}
    assert judged == {"same": (None, True), "numbers": ("different", False), "odd": ("unsure", True)}


def test_what_a_judge_tells_apart_from_one_question_may_still_be_another(tmp_path: Path) -> None:
    stem = QUESTION.removesuffix(" What is the angle at B?")
    bench = [item("stem", stem), item("exact", QUESTION), item("near", QUESTION + " Give a number.")]
    options = ("--base-url", "{}", "--judge", "m", "--report", "pairs.jsonl")
    with ChatServer(says=lambda body: "Verdict: different") as server:
        options = tuple(option.format(server.url) for option in options)
        assert kept(tmp_path, [item("copy", QUESTION)], bench, *options) == []
        assert kept(tmp_path, [item("copy", QUESTION)], [bench[0], bench[2]], *options) == ["copy"]
    said = {pair["against_id"]: pair["judge"] for pair in records_of(tmp_path / "pairs.jsonl")}
    assert said == {"stem": "different", "near": "different"}


def test_overlaps_not_judged_follow_the_verdict_on_larger_ones(tmp_path: Path) -> None:
    bench = [item(str(number), f"{QUESTION} Say it {'again and ' * number}clearly.") for number in range(12)]
    with ChatServer(says=lambda body: "Verdict: different") as server:
        options = ("--base-url", server.url, "--judge", "m")
        assert kept(tmp_path, [item("a", QUESTION + " Be brief.")], bench, *options) == ["a"]
        assert len(server.served) == 8


def test_a_benchmark_that_cannot_be_compared_is_an_error(tmp_path: Path) -> None:
    write_lines(tmp_path / "items.jsonl", [item("a", QUESTION)])
    for name, rows, words in (
        ("empty.jsonl", [], "contains no item"),
        ("task.jsonl", [{"id": "1", "task": QUESTION}], "`question` or `image`"),
    ):
        write_lines(tmp_path / name, rows)
        done = sophia("decontaminate", "items.jsonl", "--against", name, cwd=tmp_path, code=2)
        assert words in done.stderr.decode()
    write_lines(tmp_path / "words.jsonl", [item("b", QUESTION)])
    for match in ("image", "both"):
        done = sophia("decontaminate", "items.jsonl", "--against", "words.jsonl", "--match", match, cwd=tmp_path, code=2)
        assert b"words.jsonl: no item has" in done.stderr
    drawing(tmp_path / "a.png", 1)
    bad = [item("dict", "?", image={"path": "a.png"}), item("null", "?", image=["a.png", None]), item("question", 5)]
    assert kept(tmp_path, bad, [item("b", "Which?", image="a.png")], code=3) == ["dict", "null", "question"]
    some = [item("b", QUESTION, image="a.png"), {"id": "bare"}, item("c", "What?", image=5)]
    assert kept(tmp_path, [item("a", QUESTION), item("x", "Why?")], some, code=3) == ["x"]
    twice = [item("b", QUESTION), item("b", QUESTION)]
    assert kept(tmp_path, [item("a", QUESTION)], twice) == []


def test_questions_that_differ_by_a_sign_are_not_one(tmp_path: Path) -> None:
    """Short questions count as two; long ones overlap in words, and the judge is asked."""
    short = [item("a", "What is f(-2)?"), item("b", "What is f(2)"), item("c", "A right-angled triangle: x+1?")]
    assert kept(tmp_path, short, [item("z", "What is f(2)?"), item("y", "a Right angled triangle x + 1")]) == ["a"]
    words = "Let f be the function of x that is x^2 {} 3x {} 1 for all numbers x: what is f({}2)?"
    long = [item("a", words.format("+", "-", "-")), item("b", words.format("-", "+", ""))]
    near = TextIndex([words.format("-", "+", "")], 8, 0.5).find_overlaps
    assert [(one.same, one.share) for one in near(long[0]["question"])] == [(False, 1.0)]
    assert [(one.same, one.share) for one in near(long[1]["question"])] == [(True, 1.0)]


def test_another_image_in_a_files_place_is_looked_at(tmp_path: Path) -> None:
    """Also if the new file has the same name, size and time."""
    one, other = drawing(tmp_path / "one.bmp", 1), drawing(tmp_path / "other.bmp", 2)
    os.utime(one, (0, 0))
    before = image_key(str(one))
    one.write_bytes(other.read_bytes())
    os.utime(one, (0, 0))
    assert one.stat().st_mtime == 0 and image_key(str(one)) != before


def test_stdin_cannot_be_both(tmp_path: Path) -> None:
    assert b"stdin already holds the records" in sophia("decontaminate", "-", "--against", "-", cwd=tmp_path, code=2).stderr


def test_every_drop_is_named_though_ids_are_missing_or_come_twice(tmp_path: Path) -> None:
    other = QUESTION.replace("triangle", "figure")
    items = [item("same", QUESTION), item("same", other), {"question": QUESTION + "!"}, {"question": other + "!"}]
    assert kept(tmp_path, items, [item("b", QUESTION), item("c", other)], "--report", "pairs.jsonl") == []
    pairs = records_of(tmp_path / "pairs.jsonl")
    assert {(pair["id"], pair["question"]) for pair in pairs} == {(row.get("id"), row["question"]) for row in items}


def test_a_parquet_file_of_our_own_making_is_a_benchmark(lab: Path, tmp_path: Path) -> None:
    sophia("export", "traj.jsonl", "--to", "parquet", "--alpha", "0.4", "-o", str(tmp_path / "x.parquet"), cwd=lab)
    done = sophia("decontaminate", "traj.jsonl", "--against", str(tmp_path / "x.parquet"), "--match", "image", cwd=lab)
    kept_rows = records_of(sophia("propagate", "traj.jsonl", "--alpha", "0.4", "--selected", cwd=lab).stdout)
    solved = {row["id"] for row in kept_rows}
    assert {row["id"] for row in records_of(done.stdout)} == {row["id"] for row in records_of(lab / "caps.jsonl")} - solved


def test_deep_and_plain_images_have_different_hashes(tmp_path: Path) -> None:
    import numpy as np

    looks = []
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 60000, (8, 8), dtype=np.uint16).repeat(20, 0).repeat(20, 1)
        Image.fromarray(pixels).save(tmp_path / f"{seed}.png")
        looks.append(perceptual_hash(str(tmp_path / f"{seed}.png")))
    assert len(set(looks)) == 3
    Image.new("RGB", (60, 60), "white").save(tmp_path / "white.png")
    assert perceptual_hash(str(tmp_path / "white.png")) == b""
    rows = [item("a", "One?", image="white.png")]
    assert kept(tmp_path, rows, [item("b", "Two?", image="white.png"), item("c", "Three?", image="0.png")]) == ["a"]


@pytest.mark.parametrize("kind", ["garbage", "schema", "blob", "folder"])
def test_a_broken_cache_costs_time_and_no_run(kind: str, tmp_path: Path, cache: Path) -> None:
    import sqlite3

    path = cache / "sophia" / "image_hashes.sqlite"
    path.parent.mkdir(parents=True)
    if kind == "garbage":
        path.write_bytes(b"garbage" * 1000)
    elif kind == "folder":
        path.mkdir()
    else:
        base = sqlite3.connect(path)
        base.execute("CREATE TABLE looks (name TEXT PRIMARY KEY, look BLOB)" if kind == "blob" else "CREATE TABLE looks (x)")
        if kind == "blob":
            stat = (drawing(tmp_path / "a.png", 1)).stat()
            base.execute("INSERT INTO looks VALUES (?, ?)", (f"{tmp_path}/a.png:{stat.st_size}:{stat.st_mtime_ns}", "abc"))
        base.commit()
    for seed, name in ((1, "a.png"), (2, "b.png")):
        if not (tmp_path / name).exists():
            drawing(tmp_path / name, seed)
    rows = [item("a", "One?", image="a.png"), item("b", "Two?", image="b.png")]
    assert kept(tmp_path, rows, [item("x", "Three?", image="a.png")]) == ["b"]


def test_a_near_copy_of_a_template_that_many_items_hold_is_found(tmp_path: Path) -> None:
    bench = [item(str(number), f"{QUESTION} Number {number}.") for number in range(150)]
    assert kept(tmp_path, [item("a", f"{QUESTION} Number 1000.")], bench) == []


def test_a_judge_that_is_away_lets_the_overlap_stand(tmp_path: Path) -> None:
    options = ("--judge", "m", "--base-url", "http://127.0.0.1:9/v1", "--retries", "0")
    assert kept(tmp_path, [item("a", QUESTION), item("c", "Something else?")], [item("b", QUESTION)], *options) == ["c"]


@given(
    st.lists(st.sampled_from("abcdefgh"), max_size=30), st.lists(st.sampled_from("abcdefgh"), max_size=30), st.integers(1, 5)
)
def test_the_share_is_that_of_a_plain_search(one: list[str], other: list[str], run: int) -> None:
    runs = {tuple(other[i : i + run]) for i in range(len(other) - run + 1)}
    covered = {i + k for i in range(len(one) - run + 1) if tuple(one[i : i + run]) in runs for k in range(run)}
    expected = 1.0 if one == other and one else 0.0
    if covered:
        expected = max(expected, min(1.0, len(covered) / min(len(one), len(other))))
    found = TextIndex([" ".join(other)], run, 1e-9).find_overlaps(" ".join(one))
    assert [near.share for near in found] == ([expected] if expected else [])


def test_words_are_split_in_both_scripts() -> None:
    assert split_words("Find ∠ABC=90°, <image 2> 求x²的值。") == ["find", "abc", "90", "求", "x2", "的", "值"]


def test_wrong_usage_names_the_remedy(tmp_path: Path) -> None:
    write_lines(tmp_path / "items.jsonl", [item("a", "?")])
    for options, words in (
        (("--against", "items.jsonl", "--match", "none"), "any, both, text, image"),
        (("--against", "gone.jsonl"), "gone.jsonl: no such file"),
        (("--against", "items.jsonl", "--report", "items.jsonl"), "is both an input and the output"),
        (("--against", "items.jsonl", "-o", "out.jsonl", "--report", "out.jsonl"), "would be written twice"),
        ((), "--against"),
    ):
        assert words in sophia("decontaminate", "items.jsonl", *options, cwd=tmp_path, code=2).stderr.decode()
