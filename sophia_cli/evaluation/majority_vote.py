"""The vote of an answer: the same option, number or text counts as the same vote, however it is written."""

from collections.abc import Sequence

from sophia_cli.verifier import option_letters
from sophia_cli.verifier.normalize import MAX_NORMALIZED_CHARS, normalize
from sophia_cli.verifier.numbers import read_quantity


def vote_key(answer: str, choices: Sequence[str] = ()) -> str:
    """Returns an answer in canonical form: its options by letter, its value, or its text in lower case without spaces.

    >>> vote_key("(B)", ["4", "5"]) == vote_key("B. 5", ["4", "5"]) == vote_key("5", ["4", "5"])
    True
    >>> vote_key("0.50") == vote_key("1/2")
    True
    """
    text = normalize(answer[:MAX_NORMALIZED_CHARS])
    if choices and (picked := option_letters.matching_options(text, option_letters.option_texts(list(choices)))) is not None:
        return f"options {sorted(picked)}"
    if found := option_letters.letters_of(text):
        return f"letters {sorted(found)}"
    if led := option_letters.led_letter(text):
        return f"letters {[led[0]]}"
    quantity = read_quantity(text)
    return f"{quantity.value} {quantity.unit}" if quantity else "".join(text.split()).casefold()
