"""verl: parquet with the columns of its RL data set (`prompt`, `images`, `reward_model`) and of its SFT (`messages`).

https://verl.readthedocs.io/en/latest/preparation/prepare_data.html, and its `examples/data_preprocess/geo3k.py`.
`<image>` places an image; `images` holds the bytes of each, which verl opens. Items without trajectories have the RL
columns only.
"""

from typing import Any

from sophia_cli.exporters._base import ExportExample, assistant_turn

OUTPUT_KIND, SOURCE_KIND, EMBEDS_IMAGES = "table", "any", True
ALLOWS_PATHS = False
TYPED_COLUMNS = ("prompt", "images", "reward_model", "extra_info", "messages")


def row_fields(example: ExportExample) -> dict[str, Any]:
    """Returns one row. `ground_truth` is the first accepted answer; all of them are in `extra_info`."""
    gold = example.record.get("answer")
    answers = [str(each) for each in (gold if isinstance(gold, list) else [gold]) if each is not None]
    row = {
        "data_source": "sophia",
        "prompt": example.prompt_with_placeholders,
        "images": example.images,
        "ability": "visual_reasoning",
        "reward_model": {"style": "rule", "ground_truth": answers[0] if answers else ""},
        "extra_info": {
            "index": example.name,
            "split": "train",
            "question": str(example.record.get("question")),
            "answer": answers,
        },
    }
    if example.answer is None:
        return row
    return {**row, "messages": [*example.prompt_with_placeholders, assistant_turn(example.answer)], "weight": example.weight}
