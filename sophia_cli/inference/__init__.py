"""What a step asks of a model."""
