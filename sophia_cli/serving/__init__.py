"""Servers that we start ourselves: which GPUs they get, how they are watched, and how they surely end."""
