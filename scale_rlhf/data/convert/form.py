"""What a converter is, and what several share: columns with errors that say where, and ratings on one scale."""

from collections.abc import Callable
from dataclasses import dataclass

from scale_rlhf.data.messages import missing
from scale_rlhf.data.rows import shown
from scale_rlhf.errors import DataError

HIGHEST = 5  # ratings run from 0 to it in our forms
OUR_ASPECTS = {"helpfulness": "helpful", "honesty": "honest", "harmlessness": "harmless"}  # others keep their names


@dataclass(frozen=True)
class Form:
    """A public form of feedback.

    row: a row of it and where it stands to one of ours, or to None where it says nothing of any use. leaves_out: in words,
    when that is. gathers: a row is about one response, and neighbouring ones about the same prompt become one.
    """

    row: Callable[[dict, str], dict | None]
    leaves_out: str = ""
    gathers: bool = False


def column(row: object, name: str, at: str) -> object:
    """What a row, or an object in it, has under that name."""
    if not isinstance(row, dict):
        raise DataError(f"{at}: expected an object with `{name}`; found {shown(row)}")
    if name not in row:
        raise missing(name, row, at, f"`{name}` as in the form that was named")
    return row[name]


def on_our_scale(rating: object, lowest: float, highest: float, at: str) -> float:
    """A rating between `lowest` and `highest`, moved and stretched to 0 to 5, so that gaps mean the same in every file."""
    if isinstance(rating, str):
        try:
            rating = float(rating)
        except ValueError:
            pass
    if not isinstance(rating, (int, float)) or isinstance(rating, bool) or not lowest <= rating <= highest:
        raise DataError(f"{at}: a rating must be a number from {lowest:g} to {highest:g}; found {shown(rating)}")
    return round(HIGHEST * (rating - lowest) / (highest - lowest), 4)
