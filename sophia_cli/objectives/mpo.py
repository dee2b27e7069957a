"""MPO, Mixed Preference Optimization (arXiv 2411.10442): prefers a correct trajectory to a wrong one of the same
question.

    loss = 0.8 L_DPO + 0.2 L_BCO + 1.0 L_SFT,  β = 0.1

L_DPO is the sigmoid loss on the difference of both log-ratios to the reference policy; L_BCO pulls each log-ratio to
its side. Both are means over an update's pairs. L_SFT is the negative log-likelihood of the correct trajectories, a
mean over all their tokens in the update. TRL's `DPOTrainer` trains; tokens and loss masks are ours
(`training/collator.py`).
"""

from dataclasses import replace
from typing import Any

import torch

from sophia_cli.errors import SophiaError
from sophia_cli.training.collator import IGNORE_INDEX, Collator, SkippedExample, rows_changed_error
from sophia_cli.training.run_state import TrainPlan, update_batches

DATA_KIND = "pairs"
DEFAULTS = {"batch_size": 256, "lr": 5e-6}
"""Those of the MPO paper."""
LOSS_WEIGHTS = {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}
SFT_INDEX = list(LOSS_WEIGHTS).index("sft")
BETA = 0.1
REFERENCE = "ref"
"""The name of the adapter copy that TRL keeps as the reference. The policy without adapters is the same, so it is not
saved.
"""
METRIC_NAMES = {
    "rewards/accuracies": "preferred",
    "rewards/margins": "margin",
    "logps/chosen": "right",
    "logps/rejected": "wrong",
}


def make_trainer(plan: TrainPlan, policy: Any, encoder: Collator, arguments: dict[str, Any]) -> Any:
    """Returns TRL's trainer over the plan's pairs. arguments: those common to all TRL trainers."""
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    class Trainer(DPOTrainer):
        """Weights L_SFT of each forward pass by its tokens, so that the loss does not depend on how a batch is split."""

        def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
            batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
            tokens = torch.stack([_right_tokens(batch) for batch in batches]).to(device)
            mean = self.accelerator.gather(tokens).float().mean()  # over all forward passes of the update
            for batch, own in zip(batches, tokens, strict=True):
                batch["share"] = (own / mean).item()
            return batches, items

        def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
            self.loss_weights[SFT_INDEX] = LOSS_WEIGHTS["sft"] * inputs.pop("share", 1.0)
            return super()._compute_loss(model, inputs, return_outputs)  # type: ignore[no-untyped-call]

    order = [row for batch in update_batches(plan) for row in batch]
    rows = [{"row": row, "images": []} for row in order]  # TRL leaves the tokens to us if there is a column "images"
    made = Trainer(
        model=policy,
        args=DPOConfig(
            **arguments,
            beta=BETA,
            loss_type=list(LOSS_WEIGHTS),
            loss_weights=list(LOSS_WEIGHTS.values()),
            max_length=None,
            train_sampling_strategy="sequential",
        ),
        data_collator=_PairCollator(plan, encoder),
        train_dataset=Dataset.from_list(rows),
        processing_class=encoder.processor,
    )
    if REFERENCE in getattr(policy, "peft_config", {}):
        policy.delete_adapter(REFERENCE)
    return made


def _right_tokens(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Returns the number of tokens over which L_SFT is taken in a forward pass."""
    right, _ = batch["completion_mask"].chunk(2)
    return right.sum()


class _PairCollator:
    """Makes batches as `DPOTrainer` takes them: P correct answers, then P wrong ones."""

    def __init__(self, plan: TrainPlan, encoder: Collator):
        self.plan, self.encoder = plan, encoder

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        rows = [self.plan.rows[example["row"]].row for example in examples]
        try:
            batch = self.encoder.collate([*rows, *(replace(row, answer=str(row.rejected)) for row in rows)], sees=True)
        except SkippedExample as reason:
            raise SophiaError(rows_changed_error(rows, reason)) from None
        completion_mask = (batch.pop("labels") != IGNORE_INDEX).long()
        del batch["weights"], batch["behavior_logp"]
        return {**batch, "completion_mask": completion_mask}
