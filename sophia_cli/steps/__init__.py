"""The steps: what each command does, one page per step. A step is an iterator over records.

`run` reads files, calls one function, and writes what it yields; `_runner.py` is the shared frame (output, resume,
progress, exit code), `_common.py` the shared options. Steps never import each other. What a step computes lives in
`rewards/`, `verifier/`, `training/` and so on; the command line that calls it in `cli/`.

To add a step, write one file here, and one function in `cli/`.
"""
