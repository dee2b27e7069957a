"""Training: rows → sized rows → plan → updates → checkpoints → saved model.

- `dataset.py`, `examples.py`: records become training rows (chat, answer, weight)
- `collator.py`: rows become tokens, labels (the loss mask) and padded batches
- `preflight.py`, `run_state.py`, `plan_report.py`: every row is checked, the plan is stored in `OUT.tmp` and shown
- `schedule.py`: which rows make which update on which rank
- `trainer.py` (our loop) and `trl_trainer.py` (TRL's), `engines.py`, `logprobs.py`, `packing.py`,
  `sequence_parallel.py`
- `checkpoints.py` writes and finds checkpoints, `save.py` the final model, `metrics_log.py` the metrics
- `launcher.py`, `worker.py`, `rendezvous.py`, `distributed.py`: several processes

What is optimized is in `objectives/`; options and input files are read in `steps/train.py`.
"""
