"""What training optimises: one file each, which names its equation, and says what it learns from (`DATA_KIND`).

`trajectories`: weighted ones, under the policy in our own loop; such a file has `loss(scored)`, a pure function of tensors.
It may say that it takes rows without trajectories, too (`PLAIN`), or that it needs log µ of some (`NEEDS_BEHAVIOR`).
`pairs`, or `questions` that the policy answers itself: such a file has `trainer(…)`, one of TRL's, which
`training/with_trl.py` runs, `TELLS`, which of its figures are told, and by what name, and `DEFAULTS` of its own.
"""
