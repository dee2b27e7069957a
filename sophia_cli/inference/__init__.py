"""What a step asks of a model, and how requests become records. Nothing here knows where the model runs.

- `types.py`: SamplingParams, Request, Completion, Failure, Job, and the Backend protocol
- `sampler.py`: runs jobs through a backend and makes records of the results
- `early_stop.py`, `early_stop_resume.py`: `reason --stop-early`
- `backend_options.py`: the options under "Where the model runs", and the backend that they select

Where a model runs is in `backends/`.
"""
