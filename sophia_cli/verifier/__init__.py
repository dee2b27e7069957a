"""The answer verifier: R(y) of Eq. 4. `verify(response, item)` returns a `Verdict`.

- `verify.py`: the entry point; `extract.py`, `answer_phrases.py`, `wrappings.py`: find the final answer in a response
- `normalize.py`, `function_names.py`: one spelling for answers and golds
- `rules.py`: the list of rules and most of them; `structure_rules.py`: rules for intervals, sets, equations
- `option_letters.py`, `numbers.py`, `tolerance.py`, `units.py`, `words.py`, `clock_and_ratio.py`,
  `calendar_and_duration.py`, `formula.py`, `structures.py`: what rules read
- `float_eval.py`, `sympy_worker.py`, `sympy_compare.py`: algebra, in a process of its own
- `caption_leak.py`: does a trajectory mention a caption; `trl_reward.py`: a reward function for TRL

To add a rule, write a function (answer, gold, case) → True, False or None and add it to `RULES`. LLM judges are in
`judge/`.
"""

from sophia_cli.verifier.types import Verdict
from sophia_cli.verifier.verify import verify

__all__ = ["Verdict", "verify"]
