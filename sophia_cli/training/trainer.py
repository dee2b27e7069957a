"""The trainer: transformers' own loop with our loss, normalised over the whole global batch."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerCallback

from sophia_cli.training.batches import IGNORED

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | float], torch.Tensor]


def log_probabilities(logits_BTV: torch.Tensor, labels_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log π_θ of each next token and the mask of supervised ones, both B x (T−1); logits at t are of token t + 1."""
    targets = labels_BT[:, 1:]
    losses = cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    logps = -losses.view_as(targets)
    return logps, (targets != IGNORED).to(logps.dtype)


class WeightedTrainer(Trainer):
    """Trains on rows with weights; `loss` is an objective, `normalise` the denominator: tokens or trajectories."""

    def __init__(self, *, loss: Loss, normalise: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.objective, self.normalise = loss, normalise
        self.loss_is_scaled_for_ga = True  # the denominator spans all accumulation steps already

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """The micro-batches of one step, and the denominator over all of them and all ranks."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = torch.tensor(sum(_size(batch, self.normalise) for batch in batches), device=device)
        return batches, self.accelerator.gather(count).sum()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """The objective over one micro-batch. Gradients are averaged over ranks afterwards, hence the factor."""
        inputs = dict(inputs)
        labels, weights = inputs.pop("labels"), inputs.pop("weights")
        outputs = model(**inputs)
        logps, mask = log_probabilities(outputs.logits, labels)
        denominator = num_items_in_batch if num_items_in_batch is not None else _size({"labels": labels}, self.normalise)
        loss = self.objective(logps, mask, weights, denominator) * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss


def _size(batch: dict[str, torch.Tensor], normalise: str) -> int:
    labels = batch["labels"]
    return len(labels) if normalise == "trajectories" else int((labels[:, 1:] != IGNORED).sum())


class Report(TrainerCallback):
    """Hands each logged step's figures to `emit`."""

    def __init__(self, emit: Callable[[dict[str, Any]], None]):
        self.emit = emit

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Called by the trainer; its closing summary is not a step and is left out."""
        if logs and "loss" in logs:
            names = ("loss", "grad_norm", "learning_rate", "epoch")
            self.emit(
                {
                    "step": state.global_step,
                    "steps": state.max_steps,
                    **{name: logs[name] for name in names if name in logs},
                }
            )
