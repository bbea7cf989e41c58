"""What must not be shown or written: passwords, tokens, and characters that a terminal would obey. Imports nothing of ours."""

import os
import re

HIDDEN = "***"  # stands where a secret stood

_NAME = r"[\w.-]*(?:token|secret|passw(?:or)?d|signature|api[_-]?key|access[_-]?key|authorization)[\w.-]*"
# User name and password of an address; passwords may hold an @, and somebody may have left the scheme out.
_PASSWORD = re.compile(r"((?:[A-Za-z][\w+.-]*:)?//)[^/\s'\"<>?#]*@")
_BARE_PASSWORD = re.compile(r"(?<![\w/*.%+-])[\w.%+-]+:[^\s/@'\"<>:,]+@(?=[\w\[])")
_ARGUMENT = re.compile(rf"([?&;](?:{_NAME}|[\w.-]*key[\w.-]*)=)[^&;\s'\"<>)\\]+", re.IGNORECASE)
_HEADER = re.compile(
    r"((?:authorization|x-api-key|set-cookie|cookie)['\"]?\s*[:=]\s*(?:b?['\"])?)(?:(?:bearer|basic|token)\s+)?[^\s'\",;\\]+",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b(Bearer\s+)[A-Za-z0-9+/_.~=-]{8,}|\b(Basic\s+)[A-Za-z0-9+/]{6,}=*(?=['\"])", re.IGNORECASE)
_HUB = re.compile(r"\bhf_[A-Za-z0-9]{8,}")  # a token of the hub, wherever it stands
_SECRET_WORDS = {"TOKEN", "SECRET", "PASSWORD", "PASSWD", "KEY", "APIKEY", "CREDENTIALS"}  # between the _ of a variable's name
_SHORTEST = 8  # characters; a shorter value of a variable is more likely a word of the text than a secret

# Control characters but line breaks and tabs, marks that turn the direction of writing, other line ends, halves of surrogates.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def without_secrets(text: str) -> str:
    """`text` with *** in place of what should not be known to who reads it.

    These are: user names and passwords of addresses, the values of their token-like arguments, Authorization headers,
    tokens of the Hugging Face hub, and the value of every environment variable whose name says that it is a secret.
    """
    for value in _secret_values():
        text = text.replace(value, HIDDEN)
    text = _BARE_PASSWORD.sub(f"{HIDDEN}@", _PASSWORD.sub(rf"\1{HIDDEN}@", text))
    text = _ARGUMENT.sub(rf"\1{HIDDEN}", text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    text = _SCHEME.sub(lambda found: (found[1] or found[2]) + HIDDEN, text)
    return _HUB.sub(HIDDEN, text)


def redacted(value: object) -> object:
    """The same for every text in lists and dictionaries, before they are written as JSON."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {redacted(key): redacted(inner) for key, inner in value.items()}
    return [redacted(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def printable(text: str) -> str:
    """`text` with what a terminal would obey, or a file could not hold, written as escapes."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def _secret_values() -> list[str]:
    """Longest first: one secret may be part of another."""
    values = {value for name, value in os.environ.items() if _SECRET_WORDS & set(name.upper().split("_"))}
    return sorted(filter(_is_secret, values), key=len, reverse=True)


def _is_secret(value: str) -> bool:
    """Not a file that holds one, nor a number or a word such as `true`."""
    return len(value) >= _SHORTEST and not value.startswith(("/", "~", ".")) and not (value.isalpha() or value.isdigit())
