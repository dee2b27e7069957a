"""The benchmarks, one file each; its name, with hyphens, is what `eval --bench` takes.

A file says where the rows are (`HUB_ID`, and `SPLITS`, each `config@split`), how many questions they make (`QUESTION_COUNT`), which
fields hold the id and the images (`ID_FIELD`, `IMAGE_FIELDS`), by what fields figures are broken down (`CATEGORIES`), and whether the paper had
a model judge the answers (`LLM_JUDGED`). It makes an item of a row: `item(row, part)` gives the fields of a source (contract.md)
and those of `CATEGORIES`, or None for a row of another task; it raises RecordError for a row that cannot be asked or graded as it
stands. Images stand in questions and options as `<image 1>`; those that nobody names come first. `cluster` joins variants
of one question.

Questions come with the benchmark's own words where its rows hold them (`query`), else with a hint of ours that demands the
same. Nothing is guessed: an option list that cannot be read, an image that is not there, a gold that is no option.
"""
