"""Algebra in a worker process: an answer that hangs or uses up memory costs the worker, not this process.

`math-verify` parses LaTeX with a grammar and compares; no text of a model is ever evaluated as code. The first pair
that needs algebra starts a worker. It is kept for later pairs, and killed when a pair takes too long.
"""

import re
import signal
import threading
from multiprocessing.connection import Connection

from sophia_cli.runtime.worker_pool import WorkerDied, WorkerProcess, WorkerTimeout
from sophia_cli.verifier.normalize import is_too_complex

# A hostile expression such as 9^{9^9} fails here, and not on the machine.
MEMORY_BYTES = 1 << 30
_local = threading.local()

_FUNCTION_NAMES = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|sec|csc|cot|log|ln|exp|max|min|gcd|lcm|det"
_TO_LATEX = (
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"(?<!\d)(\d+) (\d+)\s*/\s*(\d+)"), r"(\1+\\frac{\2}{\3})"),
    (re.compile(r"\bC_\{?(\d+)\}?\^\{?(\d+)\}?"), r"\\binom{\1}{\2}"),
    (re.compile(r"\\lg(?![A-Za-z])"), r"\\log_{10}"),
    (re.compile(r"([A-Za-z])\^\{?(\w)\}?_(\w|\{\w+\})"), r"\1_\3^{\2}"),
    (re.compile(r"_\{\s*\\(odot|oplus|max|min|perp|parallel|star)\s*\}|_\\(odot|oplus|perp|star)"), r"_{\1\2}"),
    (re.compile(r"\^\s*\(([^()]*)\)"), r"^{(\1)}"),
    (re.compile(r"\^\s*(-?\d+)"), r"^{\1}"),
    (re.compile(r"(?<![A-Za-z\\])(pi|alpha|beta|gamma|theta|infty)(?![A-Za-z])"), r"\\\1 "),
    (re.compile(rf"(?<![A-Za-z\\])({_FUNCTION_NAMES})(?![A-Za-z])"), r"\\\1 "),
    (re.compile(r"(?<![A-Za-z\\])(?:infinity|inf)(?![A-Za-z])", re.IGNORECASE), r"\\infty "),
    (re.compile(r"\\operatorname\s*\{([a-zA-Z]+)\}"), r"\\\1 "),
    (re.compile(r"(?<=\d),(?=\d{3}(?:\D|$))"), ""),
    (re.compile(r"(?<![\d.])0+(?=\d)"), ""),
    (re.compile(r"(?<=\d)\s+(?=\d{3}(?:\D|$))"), ""),
    (re.compile(r"(\d)[eE]([-+]?\d{1,3})(?![\dA-Za-z])"), r"\1\\cdot 10^{\2}"),
    (re.compile(r"\*|(?<=\))\s+(?=\d)"), r"\\cdot "),
    (re.compile(r"°"), ""),
)


def to_latex(text: str) -> str:
    """Returns a normalized text as LaTeX that the grammar reads: `2**(1/4)`, `pi`, `sqrt(3)`, no doubled parentheses."""
    if "°" in text and re.search(r"\\?(?:sin|cos|tan|cot|sec|csc)", text):
        text = re.sub(r"(\d+(?:\.\d+)?)\s*°", r"{(\1\\cdot \\frac{\\pi}{180})}", text)
    for pattern, latex in _TO_LATEX:
        text = pattern.sub(latex, text)
    return without_double_parentheses(text)


def without_double_parentheses(text: str) -> str:
    """Returns `(x)` for `((x))`, at any depth, in one pass. Nested ones cost the grammar quadratic time."""
    opened: list[int] = []
    partner: dict[int, int] = {}
    for index, mark in enumerate(text):
        if mark == "(":
            opened.append(index)
        elif mark == ")" and opened:
            partner[opened.pop()] = index
    dropped = set()
    for start, end in partner.items():
        if start + 1 in partner and partner[start + 1] == end - 1:
            dropped |= {start, end}
    return "".join(mark for index, mark in enumerate(text) if index not in dropped)


_SYMBOL = re.compile(r"\\[A-Za-z]+|[A-Za-z]")
_GREEK_CAPITALS = ("Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Phi", "Psi", "Omega")
_UNUSED_LETTERS = "qwzkvuhgmnpstabcxyrlof"


def rename_capitals(gold: str, answer: str) -> tuple[str, str]:
    """Renames capital letters that also occur in lower case: the grammar would read r/R as 1."""
    symbols = set(_SYMBOL.findall(gold + " " + answer))
    capitals = [symbol for symbol in symbols if (len(symbol) == 1 and symbol.isupper()) or symbol[1:] in _GREEK_CAPITALS]
    both = sorted(symbol for symbol in capitals if symbol.lower() in symbols)
    # Spaces, because the letter may follow a LaTeX command.
    unused = [f" {letter} " for letter in _UNUSED_LETTERS if letter not in symbols and letter.upper() not in symbols]
    names = dict(zip(both, unused, strict=False))
    left, right = (_SYMBOL.sub(lambda match: names.get(match[0], match[0]), text) for text in (gold, answer))
    return left, right


def algebraically_equal(gold: str, answer: str, seconds: float, slack: float = 0.0) -> str:
    """Returns `correct`, `wrong`, `ungradable` (the gold cannot be parsed), `timeout` or `error` for two normalized
    texts.

    slack: absolute gap that two numbers may have; otherwise only rounding at the 25th digit is allowed.
    """
    if is_too_complex(gold):
        return "ungradable"
    if is_too_complex(answer):
        return "wrong"
    pair = rename_capitals(to_latex(gold), to_latex(answer))
    # Not more often: an answer that crashes SymPy would crash it each time.
    for _ in range(2):  # a worker that was killed from outside is replaced and asked again
        outcome = _ask_worker((*pair, seconds, slack), seconds)
        if outcome != "error":
            break
    return outcome


def _ask_worker(pair: tuple[str, str, float, float], seconds: float) -> str:
    child: WorkerProcess | None = getattr(_local, "child", None)
    if child is None or not child.is_alive():
        child = _local.child = WorkerProcess(run_worker)
    try:
        child.send(pair)
        return str(child.receive(seconds))
    except WorkerTimeout:
        outcome = "timeout"
    except WorkerDied:
        outcome = "error"
    child.kill()
    return outcome


def run_worker(pipe: Connection) -> None:
    import logging
    import resource

    logging.disable(logging.CRITICAL)  # math-verify warns for every answer that it does not limit the time
    from sophia_cli.verifier.sympy_compare import compare_latex

    # After the imports, which need memory too.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # nothing here writes files
    pipe.send("ready")
    while True:
        gold, answer, seconds, slack = pipe.recv()
        signal.setitimer(signal.ITIMER_REAL, seconds + 1)  # ends this process even if its parent has ended
        outcome = compare_latex(gold, answer, slack)
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send(outcome)
