"""Tests of our reward function in TRL: its signature, its three outcomes, and a step of real GRPO with it."""

from pathlib import Path
from typing import Any

import pytest

import sophia_cli
from sophia_cli.verifier.trl_reward import answer_reward

TINY = Path(sophia_cli.__file__).parent / "world/models/tiny-reasoner"


def test_texts_and_conversations_get_one_reward_each() -> None:
    texts = ["so \\boxed{7}", "so \\boxed{8}", "<think>7", "\\boxed{7}"]
    assert answer_reward(completions=texts, answer=["7", "7", "7", ""], prompts=["?"] * 4) == [1.0, 0.0, 0.0, None]
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    assert answer_reward(completions=chats, answer=["7", "7", "7", ""]) == [1.0, 0.0, 0.0, None]


def test_the_other_columns_of_the_data_set_are_used() -> None:
    texts = ["\\boxed{B}", "\\boxed{50 cm}", "\\boxed{3.1}"]
    columns: dict[str, Any] = {
        "choices": [["3", "7"], None, None],
        "unit": [None, "m", None],
        "tolerance": [None, None, 0.1],
    }
    assert answer_reward(completions=texts, answer=["7", "0.5", "3.14"], **columns) == [1.0, 1.0, 1.0]
    assert answer_reward(completions=texts, answer=["7", "0.5", "3.14"]) == [0.0, 0.0, 0.0]


@pytest.mark.filterwarnings("ignore")
def test_trl_trains_with_it_and_takes_a_none(tmp_path: Path) -> None:
    import trl
    from datasets import Dataset

    rewards: list[float | None] = []

    def reward(**columns: Any) -> list[float | None]:
        rewards.extend(found := answer_reward(**columns))
        return found

    rows = [{"prompt": "What is 3 + 4?", "answer": "7"}, {"prompt": "What is 3 + 4?", "answer": ""}]
    settings = trl.GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        num_generations=2,
        per_device_train_batch_size=4,
        max_completion_length=8,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
    )
    trainer = trl.GRPOTrainer(model=str(TINY), reward_funcs=reward, args=settings, train_dataset=Dataset.from_list(rows))
    trainer.train()
    assert trainer.state.global_step == 1
    assert len(rewards) == 4 and rewards.count(None) >= 2
