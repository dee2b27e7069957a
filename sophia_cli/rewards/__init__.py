"""Eq. 5 and 6."""
