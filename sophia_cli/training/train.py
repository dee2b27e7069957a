"""Trains by the plan's objective: with our own loop if it has a loss, else with TRL."""

from sophia_cli import registry
from sophia_cli.training.distributed import DistributedContext
from sophia_cli.training.metrics_log import EmitFunction
from sophia_cli.training.run_state import TrainPlan


def train_model(plan: TrainPlan, world: DistributedContext, emit: EmitFunction) -> None:
    """Trains and saves to `plan.out`; `emit` gets the metrics of each update. Every rank calls it."""
    if registry.find("objectives", plan.config.objective).DATA_KIND == "trajectories":
        from sophia_cli.training.trainer import train_with_loss

        train_with_loss(plan, world, emit)
    else:
        from sophia_cli.training.trl_trainer import train_with_trl

        train_with_trl(plan, world, emit)
