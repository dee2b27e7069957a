"""What an evaluation reports: metrics, their errors, and the paper's results.

- `benchmark_items.py`, `benchmark_files.py`: from `--bench` to items
- `metrics.py`, `statistics.py`, `majority_vote.py`: from graded samples to figures
- `report.py`, `paper_results.py`: figures as tables
- `audit.py`: why answers are wrong (Table 9)

A benchmark's own format is in `benchmarks/`, grading in `verifier/` and `judge/`.
"""
