"""Where a model runs: one file each, with a `Backend` class of the interface in `sampling.Backend`."""
