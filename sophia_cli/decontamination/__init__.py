"""Which training items overlap a benchmark, by words and by images.

- `benchmark_index.py`: the items of all benchmarks, and the check of each record
- `text_overlap.py`, `image_overlap.py`, `image_hash.py`, `overlap.py`: the two kinds of overlap
- `report.py`: what is logged and written about each pair

The optional LLM check of a pair is in `judge/same_problem.py`, the command in `steps/decontaminate.py`.
"""
