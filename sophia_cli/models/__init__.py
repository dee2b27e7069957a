"""Which models there are: aliases, and the families of vision-language models.

- `aliases.py`: short names, the user's own aliases, defaults in a model's folder
- `thinking.py`: how models mark their thinking, and the answer after it
- `folder_check.py`: damaged files, missing tokenizers and chat templates, each with its remedy
- `families/`: one file per `model_type`: how images become tokens, which parts are vision, projector and language
"""
