"""What training optimizes: one file per objective, whose docstring names its equation.

`DATA_KIND` says what an objective learns from:

- `trajectories`: weighted trajectories, in our own training loop. The file defines `loss(inputs)`, a pure function of
  tensors. It may set `ACCEPTS_PLAIN_ROWS` (rows without trajectories) or `NEEDS_BEHAVIOR` (log µ must be stored).
- `pairs`, or `questions` that the policy answers itself: the file defines `make_trainer(…)`, which returns one of
  TRL's trainers for `training/trl_trainer.py`; `METRIC_NAMES`, which of its metrics are logged under which names; and
  its own `DEFAULTS`.

How to add one: docs/adding-an-objective.md.
"""
