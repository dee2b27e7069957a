"""What training optimises: one file each, around a pure function of tensors that names its equation."""
