"""Parts of the hf backend: the batch, token sampling, and fast attention on CPUs."""
