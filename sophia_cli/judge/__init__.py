"""Every LLM-as-a-judge: what a judge is asked, and how its response is read.

- `answer_judge.py`: judges answers for `grade` and `eval` (`--judge`)
- `prompts_and_parsing.py`: its prompts and its verdict lines
- `same_problem.py`: says whether two questions are one problem, for `decontaminate`

The rules that decide without a model are in `verifier/`; the audit's questions are in `evaluation/audit.py`.
"""
