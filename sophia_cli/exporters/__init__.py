"""The formats of `sophia export --to`: one file each, named as the user types it. `_base.py` says what an exporter
defines.

- `_records.py` chooses the records and makes examples of them
- `_writers.py` writes tables and folders

To add a format, write one file with the constants of `_base.py` and `row_fields(example)`.
"""
