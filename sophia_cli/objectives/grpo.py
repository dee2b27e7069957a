"""GRPO (arXiv 2402.03300): the policy answers each question several times and learns from the answers that beat their
group.

    A_i = (R_i − mean R) / std R, the clipped objective over tokens, no KL term

It is the paper's baseline, and the last stage of its best row. TRL's `GRPOTrainer` trains; vLLM generates the rollouts
where it is installed, else the policy itself; R is our verifier. Groups that are all correct or all wrong are masked,
and so are answers that cannot be graded: they count neither in the loss nor in its denominator.
"""

from typing import Any

from sophia_cli.errors import RecordError, SophiaError
from sophia_cli.io.images import open_image
from sophia_cli.training.collator import Collator, SkippedExample, rows_changed_error
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


def make_trainer(plan: TrainPlan, policy: Any, encoder: Collator, arguments: dict[str, Any]) -> Any:
    """Returns TRL's trainer over the plan's questions. arguments: those common to all TRL trainers."""
    from datasets import Dataset
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    class Trainer(GRPOTrainer):
        """Masks rollouts that teach nothing, so that they do not dilute the others."""

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

    order = [
        row for batch in update_batches(plan) for row in batch
    ]  # fixed here, because TRL's own order restarts after a resume
    made = Trainer(
        model=policy,
        reward_funcs=reward,
        args=GRPOConfig(
            **arguments,
            shuffle_dataset=False,
            num_generations=plan.config.rollouts,
            max_completion_length=plan.config.max_tokens,
            loss_type="dapo",  # all tokens of an update have the same weight
            use_vllm=has_vllm() and not arguments["use_cpu"],
            vllm_mode="colocate",
        ),
        train_dataset=Dataset.from_dict({"row": order}).with_transform(examples),
        processing_class=encoder.processor,
    )
    return made


def _prompt_messages(row: TrainExample) -> list[dict[str, Any]]:
    """Returns the prompt with placeholders for its images; TRL fills them."""
    chat = []
    for message in row.messages:
        content = message["content"]
        if isinstance(content, list):
            content = [{"type": "image"} if part["type"] == "image" else part for part in content]
        chat.append({**message, "content": content})
    return chat
