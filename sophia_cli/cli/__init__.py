"""The command line: every command and option, and one lazy call each. Nothing is computed here.

- `app.py`: the list of commands; `pipeline.py`, `training.py`, `evaluation.py`, `data.py`, `servers.py`: their options
- `options.py`: options that several commands share
- `inputs.py`: from typed options to input files and option objects
- `run.py`: from an exception to one line on stderr and an exit code

A command calls `run` of its file in `steps/`, which it imports only when it runs, so that `--help` stays fast.
"""
