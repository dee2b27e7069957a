"""The steps, one page each."""
