"""The embedded world: scenes of coloured shapes, questions about them, and the two models trained in it."""
