"""What a data set is worth: the figures of `sophia stats` (`dataset_stats.py`) and their charts in a terminal
(`charts.py`).
"""
