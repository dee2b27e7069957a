"""Processes, signals, progress and queues: nothing in it knows what a record is."""
