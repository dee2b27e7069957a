"""The rewards of the method: Eq. 5 (reward of a caption) and Eq. 6 (which trajectories are kept).

- `trajectory.py`: the fields of a record that matter, and the selection rule
- `table.py`: these fields of all records, in columns
- `loading.py`: from JSONL lines to the table
- `selection.py`: Eq. 5 and Eq. 6 over the table; here it is decided that a caption qualifies
- `streaming.py`: the same for a pipe, item by item
- `training_set.py`, `preference_pairs.py`: what training and export read

Not here: R(y) of one trajectory (Eq. 4) is in `verifier/`.
"""
