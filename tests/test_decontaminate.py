"""`sophia decontaminate`: what overlaps a benchmark is dropped and named, what does not goes out as it came."""

import io
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from conftest import records_of, sophia, write_lines
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from sophia_cli.looks import Looks, look_of
from sophia_cli.overlap import Texts, words_of

QUESTION = "In triangle ABC the angle at A is 40 degrees and AB equals AC. What is the angle at B?"
CHINESE = "如图所示，在三角形ABC中，角A等于40度，且AB等于AC，求角B的度数。"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, for this process and those it starts."""
    import conftest

    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setitem(conftest.ENVIRONMENT, "XDG_CACHE_HOME", str(folder))
    return folder


def drawing(path: Path, seed: int) -> Path:
    """A line drawing, unlike those of other seeds."""
    draw = random.Random(seed)
    image = Image.new("RGB", (300, 200), "white")
    points = [(draw.randrange(10, 290), draw.randrange(10, 190)) for _ in range(4)]
    ImageDraw.Draw(image).polygon(points, outline="black", width=4)
    image.save(path)
    return path


def item(name: str, question: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "question": question, "answer": "70", **fields}


def kept(folder: Path, items: list[dict[str, Any]], bench: list[dict[str, Any]], *options: str, code: int = 0) -> list[str]:
    """The ids that are left."""
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
    far = [seed for seed in range(1, 12) if look_of(str(originals[seed])) != look_of(str(originals[0]))]
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


def test_an_image_is_hashed_once_and_anew_when_its_file_changes(tmp_path: Path, cache: Path) -> None:
    path = drawing(tmp_path / "a.png", 1)
    items, bench = [item("a", "Where?", image="a.png")], [item("b", "When?", image="b.png")]
    drawing(tmp_path / "b.png", 2)
    assert kept(tmp_path, items, bench) == ["a"]
    looks = Looks(cache / "sophia" / "looks.sqlite")
    assert looks.get(str(path)) == look_of(str(path))
    looks.put(str(path), look_of(str(tmp_path / "b.png")))  # what is in the cache is believed
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
    assert judged == {"same": ("same", True), "numbers": ("different", False), "odd": ("unsure", True)}


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
    found = Texts([" ".join(other)], run, 1e-9).near(" ".join(one))
    assert [near.share for near in found] == ([expected] if expected else [])


def test_words_are_told_apart_in_both_scripts() -> None:
    assert words_of("Find ∠ABC=90°, <image 2> 求x²的值。") == ["find", "abc", "90", "求", "x2", "的", "值"]


def test_wrong_usage_names_the_mend(tmp_path: Path) -> None:
    write_lines(tmp_path / "items.jsonl", [item("a", "?")])
    for options, words in (
        (("--against", "items.jsonl", "--match", "none"), "any, both, text, image"),
        (("--against", "gone.jsonl"), "gone.jsonl: no such file"),
        (("--against", "items.jsonl", "--report", "items.jsonl"), "read and written at once"),
        ((), "--against"),
    ):
        assert words in sophia("decontaminate", "items.jsonl", *options, cwd=tmp_path, code=2).stderr.decode()
