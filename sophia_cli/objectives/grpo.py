"""GRPO (arXiv 2402.03300): the policy answers each question several times and learns from those better than their group.

    A_i = (R_i − mean R) / std R, the clipped objective over tokens, no KL term

The paper's baseline, and what follows SOPHIA in its best row. By TRL's `GRPOTrainer`, rollouts by vLLM where it is there
and by the policy itself elsewhere; R is our grader's. Groups all right or all wrong are left out, as are answers that could
not be graded: they count neither in the loss nor in the number of tokens that divides it.
"""

from typing import Any

from sophia_cli.errors import RecordError, SophiaError
from sophia_cli.io.images import open_image
from sophia_cli.training.collator import Encoder, SkippedExample, rows_changed_error
from sophia_cli.training.config import has_vllm
from sophia_cli.training.examples import TrainExample
from sophia_cli.training.run_state import TrainPlan, update_batches
from sophia_cli.verifier import verify

DATA_KIND = "questions"
DEFAULTS = {"batch_size": 64, "lr": 5e-7}
"""The paper's, in questions."""
METRIC_NAMES = {
    "reward": "reward",
    "frac_reward_zero_std": "groups_left_out",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "cut_off",
    "entropy": "entropy",
}


def make_trainer(plan: TrainPlan, policy: Any, encoder: Encoder, arguments: dict[str, Any]) -> Any:
    """TRL's trainer over the plan's questions. arguments: of any of its trainers."""
    from datasets import Dataset
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    class Trainer(GRPOTrainer):
        """Masks what teaches nothing, so that it does not thin out the rest."""

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            found = super()._generate_and_score_completions(inputs)
            teaches = (found["advantages"] != 0).to(found["completion_mask"].dtype)
            found["completion_mask"] = found["completion_mask"] * teaches[:, None]
            found["num_items_in_batch"] = self.accelerator.gather(found["completion_mask"].sum()).sum()
            return found

    def examples(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        rows = [plan.rows[number].row for number in batch["row"]]
        try:
            images = [[open_image(image) for image in row.images] for row in rows]
        except RecordError as error:
            raise SophiaError(rows_changed_error(rows, SkippedExample(str(error)))) from None
        return {"prompt": [_prompt_messages(row) for row in rows], "images": images, "item": [row.item for row in rows]}

    def reward(completions: list[Any], completion_ids: list[Any], item: list[Any], **_: Any) -> list[float | None]:
        judged = zip(completions, completion_ids, item, strict=True)
        return [verify(text[-1]["content"], gold, truncated=cut_off(ids)).reward for text, ids, gold in judged]

    def cut_off(ids: Any) -> bool:
        return len(ids) >= plan.config.max_tokens and ids[-1] not in made.eos_token_ids

    order = [row for batch in update_batches(plan) for row in batch]  # laid out here: TRL's own begins anew after a kill
    made = Trainer(
        model=policy,
        reward_funcs=reward,
        args=GRPOConfig(
            **arguments,
            shuffle_dataset=False,
            num_generations=plan.config.rollouts,
            max_completion_length=plan.config.max_tokens,
            loss_type="dapo",  # every token of an update weighs alike
            use_vllm=has_vllm() and not arguments["use_cpu"],
            vllm_mode="colocate",
        ),
        train_dataset=Dataset.from_dict({"row": order}).with_transform(examples),
        processing_class=encoder.processor,
    )
    return made


def _prompt_messages(row: TrainExample) -> list[dict[str, Any]]:
    """The chat before the answer, with places for its images, which TRL fills."""
    chat = []
    for message in row.messages:
        content = message["content"]
        if isinstance(content, list):
            content = [{"type": "image"} if part["type"] == "image" else part for part in content]
        chat.append({**message, "content": content})
    return chat
