"""What others read (`sophia export --to`), a file each. `_example.py` says what an exporter is given, and what it has."""
