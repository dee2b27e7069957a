"""What an evaluation says: figures of samples, their errors, and what the paper reports."""
