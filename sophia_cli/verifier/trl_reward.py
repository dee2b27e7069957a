"""The verifier as a reward function for TRL: `GRPOTrainer(reward_funcs=answer_reward, …)`.

The data set needs a column `answer`. The columns `choices`, `answer_type`, `tolerance`, `precision`, `unit` and
`language` are used if they exist. TRL itself is not imported.
"""

from typing import Any

from sophia_cli.records import GRADING_FIELDS
from sophia_cli.verifier import verify


def answer_reward(completions: list[Any], answer: list[Any], **columns: Any) -> list[float | None]:
    """Returns 1.0 for each completion whose final answer is right, 0.0 for a wrong one, None where it cannot be graded.

    Args:
        completions: Texts, or conversations whose last message counts; as many as `answer`. TRL leaves a None out of
            the mean of its group.

    Raises:
        RecordError: `choices` is not a list.
    """
    items = ({name: columns[name][row] for name in GRADING_FIELDS if name in columns} for row in range(len(answer)))
    pairs = zip(completions, answer, items, strict=True)
    return [verify(_completion_text(completion), {"answer": gold, **item}).reward for completion, gold, item in pairs]


def _completion_text(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
