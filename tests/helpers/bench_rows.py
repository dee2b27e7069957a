"""A few rows of each of the eight benchmarks, in the schema of its public data set. Questions and drawings are our own."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

Rows = dict[str, list[dict[str, Any]]]


def drawing(number: int) -> dict[str, Any]:
    """Returns a small drawing as `datasets` stores it."""
    image = Image.new("RGB", (48, 48), "white")
    ImageDraw.Draw(image).ellipse((4, 4, 10 + 4 * number, 10 + 4 * number), fill=("red", "green", "blue")[number % 3])
    data = io.BytesIO()
    image.save(data, "PNG")
    return {"bytes": data.getvalue(), "path": None}


def mmmu() -> Rows:
    def row(number: int, subject: str, **fields: Any) -> dict[str, Any]:
        images = {f"image_{place}": None for place in range(1, 8)}
        usual = {
            "id": f"validation_{subject}_{number}", "question": "What is in <image 1>?", "options": "['a disc', 'a square']",
            "explanation": "", **images, "image_1": drawing(number), "img_type": "['Diagrams']", "answer": "A",
            "topic_difficulty": "Easy", "question_type": "multiple-choice", "subfield": "Shapes",
        }  # fmt: skip
        return {**usual, **fields}

    between = {"question": "Is <image 2> larger than <image 1>?", "image_2": drawing(3)}
    among = {"options": "['<image 1>', '<image 2>', 'neither']", "image_2": drawing(5), "answer": "B", "question": "Which?"}
    open_list = {"question_type": "open", "options": "[]", "answer": "['24/7', '3.429']"}
    return {
        "Accounting@validation": [
            row(1, "Accounting"),
            row(2, "Accounting", **between, topic_difficulty="Hard"),
            row(3, "Accounting", **among),
        ],
        "Basic_Medical_Science@validation": [
            row(1, "Basic_Medical_Science", **open_list),
            row(2, "Basic_Medical_Science", question_type="open", options="[]", answer="B"),
        ],
    }


def mmmu_pro() -> Rows:
    letters = [str(number) for number in range(10)]
    rows = [
        {"id": "test_History_1", "image": drawing(1), "options": str(letters), "answer": "J", "subject": "History"},
        {"id": "test_History_2", "image": drawing(2), "options": str(letters[:4]), "answer": "K", "subject": "History"},
        {"id": "test_Math_7", "image": drawing(2), "options": "['only']", "answer": "A", "subject": "Math"},
    ]
    return {"vision@test": rows}


def mathvista() -> Rows:
    about = {
        "split": "testmini", "language": "english", "img_width": 48, "img_height": 48, "source": "ours",
        "grade": "daily life",
        "category": "general-vqa", "context": "bar chart",
        "task": "figure question answering", "skills": ["statistical reasoning"],
    }  # fmt: skip

    def row(number: int, **fields: Any) -> dict[str, Any]:
        usual = {
            "pid": str(number), "question": "How many?", "image": f"images/{number}.jpg", "decoded_image": drawing(number),
            "choices": None, "unit": None, "precision": 0.0, "answer": "3", "question_type": "free_form",
            "answer_type": "integer", "metadata": about, "query": "Hint: end with an integer.\nQuestion: How many?",
        }  # fmt: skip
        return {**usual, **fields}

    choice = {"question_type": "multi_choice", "answer_type": "text", "precision": None, "choices": ["Yes", "No"]}
    zh = {**about, "language": "chinese", "skills": ["arithmetic reasoning", "algebraic reasoning"]}
    rows = [
        row(1),
        row(2, **choice, answer="No", query="Question: Is it red?\nChoices:\n(A) Yes\n(B) No"),
        row(3, answer="1.5", answer_type="float", precision=1.0, unit="years", metadata=zh, query="问题：多少年？"),
        row(4, answer="[2, 3]", answer_type="list", precision=None),
        row(5, **choice, answer="Maybe", query="Question: Is it red?\nChoices:\n(A) Yes\n(B) No"),
    ]
    return {"default@testmini": rows}


def mathverse() -> Rows:
    def row(number: int, problem: int, **fields: Any) -> dict[str, Any]:
        usual = {
            "sample_index": str(number), "problem_index": str(problem), "problem_version": "Vision Only", "question": "",
            "image": drawing(number), "answer": "A", "question_type": "multi-choice",
            "metadata": {"split": "testmini", "source": "ours", "subject": "Plane Geometry", "subfield": "Angle"},
            "query_wo": "Directly answer.", "query_cot": "First reason, then give the letter.",
            "question_for_eval": "What is the angle?\nChoices:\nA:30°\nB:60°",
        }  # fmt: skip
        return {**usual, **fields}

    rows = [
        row(1, 1, problem_version="Text Dominant"),
        row(5, 1),
        row(10, 2, question_type="free-form", answer="118掳"),
        row(15, 3, answer="B\nC"),
    ]
    return {"testmini@testmini": rows}


def dynamath() -> Rows:
    def row(number: int, variant: int, **fields: Any) -> dict[str, Any]:
        usual = {
            "id": str(number), "question": f"Which is larger? choice: (A) {variant} (B) 5", "image": f"images/{number}.png",
            "decoded_image": drawing(variant), "ground_truth": "B", "answer_type": "multiple choice", "subject": "algebra",
            "knowledge_level": "high school",
        }  # fmt: skip
        return {**usual, **fields}

    def variant(number: int) -> list[dict[str, Any]]:
        number_row = {"question": "How long?", "ground_truth": f"{number}.125", "answer_type": "float"}
        return [row(1, number), row(2, number, **number_row), row(3, number, ground_truth="even", answer_type="text")]

    return {f"default@sample_variant{number}": variant(number) for number in range(1, 11)}


def mathvision() -> Rows:
    def row(number: int, **fields: Any) -> dict[str, Any]:
        usual = {
            "id": str(number), "question": "How many discs?\n<image1>", "options": [], "image": f"images/{number}.jpg",
            "decoded_image": drawing(number), "answer": "3", "solution": None, "level": 2, "subject": "counting",
        }  # fmt: skip
        return {**usual, **fields}

    drawn = list("ABCDE")
    rows = [
        row(1),
        row(2, options=drawn, answer="D", subject="metric geometry - angle"),
        row(3, options=["$30$", "$40$", "$50$", "$60$", "$70$"], answer="C", subject="metric geometry - area"),
        row(4, question="Fit <image1> into <image2>.", subject="solid geometry", solution="Look."),
        row(5, question="No figure is named.", answer="\\frac{1}{2}"),
        row(6, options=drawn, answer="F"),
    ]
    return {"default@test": rows}


def mv_math() -> Rows:
    def row(number: int, **fields: Any) -> dict[str, Any]:
        usual = {
            "problem_id": number, "question": "Compare <image_1> and <image_2>. A. same B. not",
            "input_image": [f"batch-{number}_1.png", f"batch-{number}_2.png"], "is_multi_img": True, "answer": "B",
            "answer_type": "choice",
            "difficulty": "easy", "grade": "grade 7", "subject": "Metric Geometry", "image_relavance": "1", "analysis": "",
        }  # fmt: skip
        return {**usual, **fields}

    rows = [
        row(1),
        row(2, answer="5 cm\\#\\#50 mm", answer_type="single-step", question="How long is <image_2>?"),
        row(3, answer="(1) 3; (2) 4", answer_type="multi-step", image_relavance="0"),
        row(4, question="图<image_1>与图<image_2>相同吗？", answer="不同.", answer_type="single-step"),
    ]
    return {"*.json": rows}


def olympiadbench() -> Rows:
    def row(number: int, **fields: Any) -> dict[str, Any]:
        usual = {
            "id": number, "question": "Find $x$.", "solution": ["So it is."], "final_answer": ["3"], "context": None,
            **{f"image_{place}": None for place in range(1, 10)}, "modality": "Multimodal", "difficulty": "Competition",
            "is_multiple_answer": False, "unit": None, "answer_type": "Numerical", "error": None,
            "question_type": "Open-ended", "subfield": "Algebra", "subject": "Maths", "language": "English",
        }  # fmt: skip
        return {**usual, **fields}

    two = {"image_1": drawing(1), "image_2": drawing(2), "question": "Join <img_3362> to <img_3370>, then <img_3362>."}
    several = {"is_multiple_answer": True, "final_answer": ["1,2"], "answer_type": "Numerical"}
    physics = {"unit": "m/s", "error": "0.1", "context": "A car starts.", "subject": "Physics"}
    chinese = {
        "language": "Chinese",
        "question": "求$x$。",
        "error": "0.1,,0.2",
        "answer_type": "Numerical,Interval,Numerical",
    }
    return {
        "OE_MM_maths_en_COMP@train": [row(1, **two), row(2, image_1=drawing(3), question="As in <image_1>.", **several)],
        "OE_TO_maths_zh_CEE@train": [row(1, **chinese, is_multiple_answer=True, final_answer=["1,(0,1),2"])],
        "OE_TO_physics_en_COMP@train": [row(1, **physics), row(2, final_answer=[])],
    }


ROWS = {
    "mmmu": mmmu, "mmmu-pro": mmmu_pro, "mathvista": mathvista, "mathverse": mathverse, "dynamath": dynamath,
    "mathvision": mathvision, "mv-math": mv_math, "olympiadbench": olympiadbench,
}  # fmt: skip


def write(name: str, folder: Path) -> Path:
    """Writes a copy of the benchmark with only these rows: parquet with images inside, or JSON and image files for
    MV-MATH.
    """
    from datasets import Dataset
    from datasets import Image as Drawn

    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in ROWS[name]().items():
        if name == "mv-math":
            (folder / "images").mkdir()
            (folder / "data").mkdir()
            (folder / "data/MV-MATH.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
            for number, file in enumerate(file for row in rows for file in row["input_image"]):
                (folder / "images" / file).write_bytes(drawing(number)["bytes"])
            continue
        config, _, split = part.partition("@")
        data = Dataset.from_list(rows)
        for column in data.column_names:
            if any(isinstance(row[column], dict) and set(row[column]) == {"bytes", "path"} for row in rows):
                data = data.cast_column(column, Drawn())
        (folder / config).mkdir(exist_ok=True)
        data.to_parquet(folder / config / f"{split}.parquet")
    return folder


def row_of(name: str, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns a part of a benchmark, and its first row with some fields replaced; its images are names."""
    part, rows = next(iter(ROWS[name]().items()))
    return part, {field: f"{field}.png" if isinstance(value, dict) and "bytes" in value else value
                  for field, value in {**rows[0], **fields}.items()}  # fmt: skip
