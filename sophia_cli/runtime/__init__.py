"""Processes, threads, signals and progress. Nothing here knows what a record is.

- `worker_pool.py`: an ordered map over worker processes that may hang or crash
- `fork_map.py`: a fast map over forked copies of this process, for reading alone
- `read_ahead.py`: queues between threads
- `signals.py`: what Ctrl-C and SIGTERM do
- `tables.py`: tables that fit the terminal
- `progress.py`: the progress bar and the lines on stderr
"""
