"""Training by the plan's objective: those with a loss in our own loop, the others through TRL."""

from sophia_cli import registry
from sophia_cli.training.curve import Emit
from sophia_cli.training.plan import Plan
from sophia_cli.training.settings import World


def learn(plan: Plan, world: World, emit: Emit) -> None:
    """Trains and saves to `plan.out`; `emit` gets one record for each update. Every process calls it."""
    if registry.find("objectives", plan.settings.objective).READS == "trajectories":
        from sophia_cli.training.fit import fit
    else:
        from sophia_cli.training.with_trl import fit
    fit(plan, world, emit)
