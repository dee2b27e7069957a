"""Chemical formulas and ions: `H_2SO_4`, `H₂SO₄` and `\\ce{H2SO4}` are H2SO4, `Cu^{2+}` is Cu2+."""

import re

_ELEMENTS = frozenset(
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc "
    "Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi "
    "Po At Rn Fr Ra Ac Th Pa U Np Pu".split()
)
MAX_CHARS = 200
_MAY_BE_FORMULA = re.compile(r"[A-Z]")
_ARROW = re.compile(
    r"\\xrightarrow\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}|\\(?:long)?(?:left)?rightarrow(?![a-z])|\\rightleftharpoons|\\to(?![a-z])"
    r"|[→⟶⇌⇄⇋]|<?[-=]+>|={1,2}"
)
_STATE = re.compile(r"\((?:aq|s|l|g)\)|\\(?:up|down)arrow(?![a-z])|[↑↓]")
_CHARGE = re.compile(r"\^\s*\{?\s*(?:([+-])(\d+)|(\+{2,4}|-{2,4})|(\d*)([+-]))\s*\}?")
_SUBSCRIPT = re.compile(r"_\s*\{?\s*(\d+)\s*\}?")
_DOT = re.compile(r"\\cdot(?![a-z])|[·•]|(?<=\d)\.(?=\d*[A-Z])")
_SPECIES = re.compile(r"(\d*)((?:[A-Z][a-z]?\d*|[()\[\]]\d*)+)(?:\^(\d*[+-])|(\d*)([+-]))?")


def read_formula(text: str) -> str | None:
    """Returns a formula, an ion or a reaction in one spelling, as in `Cu2+ → Cu`; None if the text is something else."""
    if len(text) > MAX_CHARS or not _MAY_BE_FORMULA.search(text):
        return None
    plain = _SUBSCRIPT.sub(r"\1", _CHARGE.sub(_plain_charge, _ARROW.sub("→", _STATE.sub("", text))))
    plain = "".join(_DOT.sub("·", plain).split())
    sides = [_read_side(side) for side in plain.split("→")]
    return None if None in sides else "→".join(map(str, sides))


def is_spelled_out(text: str) -> bool:
    """Tells whether a text can be nothing but a formula: it has a charge, or digits that are no subscripts of variables."""
    if not re.search(r"[\d+-]", text):
        return False
    if _CHARGE.search(text):
        return True
    has_coefficients = re.search(r"(?:^|[+=])\s*\d+\s*[A-Z]", text)
    return not re.search(r"[_^]" if has_coefficients else r"[_^+=]", text)


def _plain_charge(match: re.Match[str]) -> str:
    number, sign = match[2] or match[4] or "", match[1] or match[5]
    if match[3]:  # `Ca^{++}`
        number, sign = str(len(match[3])), match[3][0]
    return f"^{'' if number == '1' else number}{sign}"


def _read_side(side: str) -> str | None:
    """Returns the species of one side of a reaction in alphabetical order."""
    # A sign between two species is a plus; at the end of one it is its charge.
    species = [_read_species(one) for one in re.split(r"\+(?=[\dA-Z(\[])", side)]
    return None if None in species else "+".join(sorted(map(str, species)))


def _read_species(text: str) -> str | None:
    """Returns `SO4^2-` for `SO_4^{2-}` and `SO42-`; crystal water stays behind its dot."""
    found = []
    for part in text.split("·"):
        match = _SPECIES.fullmatch(part)
        if not match or not set(re.findall("[A-Z][a-z]?", part)) <= _ELEMENTS:
            return None
        count, atoms, charge, _, sign = match.groups()
        if sign:
            atoms, charge = _split_charge(atoms)
            charge += sign
        found.append(count + atoms + (f"^{charge}" if charge else ""))
    return "·".join(found)


def _split_charge(atoms: str) -> tuple[str, str]:
    """Splits the digits before a sign, which may be a subscript, a charge or both: `SO42` of `SO42-`, `NO3` of `NO3-`, `Cu2`
    of `Cu2+`.
    """
    digits = re.search(r"\d*$", atoms)
    number = digits[0] if digits else ""
    is_one_atom = re.fullmatch(r"[A-Z][a-z]?\d", atoms) is not None
    if len(number) > 1 or is_one_atom:
        return atoms[:-1], "" if atoms[-1] == "1" else atoms[-1]
    return atoms, ""
