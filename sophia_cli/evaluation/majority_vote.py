"""What a wrong answer counts as among others: the same option, number or text, however it is written."""

from collections.abc import Sequence

from sophia_cli.verifier import option_letters
from sophia_cli.verifier.normalize import MAX_NORMALIZED_CHARS, normalize
from sophia_cli.verifier.numbers import read_quantity


def vote_key(answer: str, choices: Sequence[str] = ()) -> str:
    """The answer in one spelling: its options by letter, its value, or its text without spaces in small letters.

    >>> vote_of("(B)", ["4", "5"]) == vote_of("B. 5", ["4", "5"]) == vote_of("5", ["4", "5"])
    True
    >>> vote_of("0.50") == vote_of("1/2")
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
