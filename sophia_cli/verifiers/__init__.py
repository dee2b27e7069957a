"""How an answer is judged: one file each, with `verify(response, item) -> Verdict`."""
