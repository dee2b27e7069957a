"""Chemical formulas and ions: `H_2SO_4`, `H₂SO₄` and `\\ce{H2SO4}` are H2SO4, `Cu^{2+}` is Cu2+."""

import re

_ELEMENTS = frozenset(
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc "
    "Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi "
    "Po At Rn Fr Ra Ac Th Pa U Np Pu".split()
)
MAX_CHARS = 200
_MAY_BE_FORMULA = re.compile(r"[A-Z][^A-Z]{0,6}[\d+-]|\\ce")
_CE = re.compile(r"\\(?:ce|mathrm|text|rm)\s*\{(.*)\}")
_ARROW = re.compile(r"\\(?:long)?rightarrow|\\to(?![a-z])|→|-+>|={1,2}")
_CHARGE = re.compile(r"\^\s*\{?\s*(\d*[+-])\s*\}?")
_SUBSCRIPT = re.compile(r"_\s*\{?\s*(\d+)\s*\}?")
_SPECIES = re.compile(r"\d*(?:[A-Z][a-z]?\d*|[()\[\]]\d*)+(?:\d*[+-])?")


def read_formula(text: str) -> str | None:
    """Returns a formula, an ion or a reaction in plain letters, or None if the text is something else."""
    if len(text) > MAX_CHARS or not _MAY_BE_FORMULA.search(text):
        return None
    if match := _CE.fullmatch(text.strip()):
        text = match[1]
    plain = _SUBSCRIPT.sub(r"\1", _CHARGE.sub(r"\1", _ARROW.sub("→", text)))
    plain = "".join(plain.split())
    # A sign between two species is a plus; at the end of one it is its charge.
    species = re.split(r"→|\+(?=[\dA-Z(\[])", plain)
    if not all(_SPECIES.fullmatch(one) and set(re.findall("[A-Z][a-z]?", one)) <= _ELEMENTS for one in species):
        return None
    # `AB` or `C` may be points or options; a formula that is spelled in several ways has a digit or a charge.
    return plain if re.search(r"\d|[+-]$", plain) else None
