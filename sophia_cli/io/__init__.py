"""JSONL in and out."""
