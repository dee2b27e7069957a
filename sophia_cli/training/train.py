"""Training by the plan's objective: those with a loss in our own loop, the others through TRL."""

from sophia_cli import registry
from sophia_cli.training.distributed import World
from sophia_cli.training.metrics_log import Emit
from sophia_cli.training.run_state import Plan


def learn(plan: Plan, world: World, emit: Emit) -> None:
    """Trains and saves to `plan.out`; `emit` gets one record for each update. Every process calls it."""
    if registry.find("objectives", plan.settings.objective).READS == "trajectories":
        from sophia_cli.training.trainer import fit
    else:
        from sophia_cli.training.trl_trainer import fit
    fit(plan, world, emit)
