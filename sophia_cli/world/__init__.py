"""The embedded world: scenes of colored shapes, questions about them, and the two models trained on it.

- `scenes.py`, `questions.py`, `drawing.py`: scenes, questions and images
- `models/`: `tiny-vlm` and `tiny-reasoner`; `recipes/tiny/` builds them

`sophia world` is in `steps/world.py`.
"""
