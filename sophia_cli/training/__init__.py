"""Training: rows (record → chat), batches (chat → tokens and mask), and the trainer."""
