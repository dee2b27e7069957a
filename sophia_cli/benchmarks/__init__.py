"""The benchmarks of `eval --bench`: one file each; its name, with hyphens, is what the user types.

A file defines `HUB_ID` and `SPLITS` (where the rows are, each `config@split`), `QUESTION_COUNT`, `ID_FIELD` and
`IMAGE_FIELDS`, `CATEGORIES` (fields by which figures are broken down), and `LLM_JUDGED` (whether the paper had a model
judge the answers).

`make_item(row, part)` returns the fields of a source (contract.md) and those of `CATEGORIES`, or None for a row of
another task. It raises RecordError for a row that cannot be asked or graded. Images appear in questions and options as
`<image 1>`; unmentioned ones come first. `cluster` joins variants of one question.

Questions use the benchmark's own prompt where its rows hold one (`query`), else a hint of ours that demands the same.
Nothing is guessed: an unreadable option list, a missing image or a gold outside the options is an error.
"""
