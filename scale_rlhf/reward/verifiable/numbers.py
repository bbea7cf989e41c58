"""Numbers as people and models write them, read exactly: no floats, so that 0.1 + 0.2 is 0.3 and 0.333 is not 1/3.

    1,234.50    −5    3/4    1 1/2    \\frac{3}{4}    2.5\\times10^{3}    $12    50 %    12 apples    3 km/h    5 million
"""

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST = 100  # characters of a number with its unit: longer ones are text
LARGEST_EXPONENT = 50

_PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(rf"""
    (?P<sign>-?)
    (?:(?P<whole>\d+)[ ]+)?(?P<top>\d+)/(?P<bottom>\d+)(?![/\d.]) |
    (?P<minus>-?)(?P<plain>{_PLAIN})(?:[eE](?P<exponent>[+-]?\d{{1,3}})|\*10\^(?P<power>-?\d{{1,3}}))?
""", re.VERBOSE)
_CURRENCY = re.compile(r"^(-?)\s*(?:US)?[$€£¥₹]\s*")
_SCALES = {"hundred": 10**2, "thousand": 10**3, "k": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
# Words, with the powers and the "per" that units are made with. A lone x, y, z, n or i is algebra.
_UNIT = re.compile(r"(?![xyzni]\b)[a-zA-Zµμ°Ω$€£¥₹¢][\w\s°µμΩ.'/-]*(?:\^[23])?\s*", re.ASCII)


@dataclass(frozen=True)
class Number:
    """value: with `percent`, as it stands before the sign."""

    value: Fraction
    percent: bool = False

    def same(self, other: "Number") -> bool:
        """Equal numbers; 50 % is 1/2, and beside a bare number of at least 1 the sign is a unit that was left away."""
        if self.percent == other.percent:
            return self.value == other.value
        bare, percent = (other, self) if self.percent else (self, other)
        return percent.value == 100 * bare.value or (percent.value == bare.value and abs(bare.value) >= 1)


def read_number(text: str) -> Number | None:
    """The one number that `text` is, unit and currency included; None where it is none, or more than one."""
    text = plain(text)
    if len(text) > LONGEST:
        return None
    text = _CURRENCY.sub(r"\1", text.strip().rstrip(".").strip())
    found = _NUMBER.match(text)
    if not found or (value := _value(found)) is None:
        return None
    rest = text[found.end():]
    spaced, rest = rest[:1].isspace(), rest.strip()
    if percent := re.match(r"(?:%|percent\b|per cent\b)", rest):
        rest = rest[percent.end():].strip()
    word = re.match(r"[a-z]+", rest.lower())
    if word and word[0] in _SCALES and (spaced or word[0] == "k"):
        if word[0] == "k" and spaced:
            return None
        value, rest = value * _SCALES[word[0]], rest[word.end():].strip()
    if rest and not _UNIT.fullmatch(rest) or re.search(r"\d", rest.removesuffix("^2").removesuffix("^3")):
        return None
    return Number(value, bool(percent))


def _value(found: re.Match) -> Fraction | None:
    if found["top"]:
        if not int(found["bottom"]):
            return None
        value = int(found["whole"] or 0) + Fraction(int(found["top"]), int(found["bottom"]))
        return -value if found["sign"] else value
    value = Fraction(found["plain"].replace(",", ""))
    exponent = int(found["exponent"] or found["power"] or 0)
    if abs(exponent) > LARGEST_EXPONENT:
        return None
    value *= Fraction(10) ** exponent
    return -value if found["minus"] else value


_GONE = re.compile(
    r"\\(?:left|right|displaystyle|big|Big|mathrm|mathbf|textbf|text|mbox|rm|ensuremath)(?![a-zA-Z])|\\[!()\[\]]|\*\*|`")
_SPACES = re.compile(r"\\[ ,;:]|\\quad(?![a-zA-Z])|~|[\u00a0\u2009\u202f]")
_FRACTION = re.compile(r"(?<=\d)?\\[dt]?frac\s*(?:\{\s*(-?\d{1,60})\s*\}|(\d))\s*(?:\{\s*(\d{1,60})\s*\}|(\d))")


def plain(text: str) -> str:
    """LaTeX's and Markdown's marks taken off: \\frac{3}{4} is 3/4, \\$ is $, braces and mathematics' own $ are gone."""
    text = text.replace("−", "-").replace("–", "-").replace("\\$", "§").replace("\\%", "%")
    text = re.sub(r"(?<=\d)(?:\\[,;]|[\u2009\u202f])(?=\d{3}(?!\d))", ",", text)  # 12\,000
    text = _SPACES.sub(" ", _GONE.sub("", text))
    text = re.sub(r"(?<=\d),(?:\{\}|\s?\{,\}\s?)(?=\d{3})|(?<=\d)\{,\}(?=\d{3})", ",", text)
    text = _FRACTION.sub(_slash, text)
    text = re.sub(r"\s*(?:\\times|\\cdot|×|·)\s*10\s*\^\s*\{?\s*(-?\d{1,3})\s*\}?", r"*10^\1", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree", "°", text)
    text = re.sub(r"\$(?!\s*-?[\d.])|(?<=[\d}\w.])\$", "", text)  # mathematics ends here; before a digit it may be dollars
    return text.replace("{", "").replace("}", "").replace("§", "$").strip()


def _slash(found: re.Match) -> str:
    top, bottom = found[1] or found[2], found[3] or found[4]
    whole = found.start() > 0 and found.string[found.start() - 1].isdigit()  # 3\frac{1}{2} is 3 1/2
    return f"{' ' if whole else ''}{top}/{bottom}"
