"""HelpSteer, 2 and 3: a `response` with its attributes from 0 to 4 (a number, or a list with one a rater), or two responses
and which is preferred, from −3 (the first, by far) to 3.
"""

import re

from scale_rlhf.data.convert.form import OUR_ASPECTS, column, on_our_scale
from scale_rlhf.data.forms import prompt_messages
from scale_rlhf.data.messages import Messages, missing, text_in
from scale_rlhf.data.rows import shown
from scale_rlhf.errors import DataError

RATED = ("helpfulness", "correctness", "coherence")  # complexity and verbosity describe a response and do not rate it
PREFERENCES = {  # what says which is preferred: names of the two responses
    "preference_strength": ("response_1", "response_2"),
    "overall_preference": ("response1", "response2"),
}
_TURN = re.compile(r"\s*<extra_id_1>(User|Assistant)\n")


def helpsteer(row: dict, at: str) -> dict | None:
    """Ratings by aspect of one response, or a pair; None where neither is preferred."""
    for name, responses in PREFERENCES.items():
        if name in row:
            return _pair(row, name, responses, at)
    messages, response = _messages(row, at), text_in(column(row, "response", at), at, "response")
    rated = [name for name in RATED if row.get(name) is not None]
    if not rated:
        raise missing(RATED[0], row, at, f"at least one of {', '.join(RATED)}")
    ratings = {}
    for name in rated:
        raters = row[name] if isinstance(row[name], list) else [row[name]]
        ratings[OUR_ASPECTS.get(name, name)] = [[on_our_scale(number, 0, 4, at) for number in raters]]
    return {"messages": messages, "responses": [response], "ratings": ratings}


def _pair(row: dict, name: str, responses: tuple[str, str], at: str) -> dict | None:
    strength = row[name]
    if not isinstance(strength, (int, float)) or isinstance(strength, bool) or not -3 <= strength <= 3:
        raise DataError(f"{at}: `{name}` must be a number from -3 to 3; found {shown(strength)}")
    if strength == 0:
        return None
    first, second = (text_in(column(row, response, at), at, response) for response in responses)
    chosen, rejected = (first, second) if strength < 0 else (second, first)
    return {"messages": _messages(row, at), "chosen": chosen, "rejected": rejected}


def _messages(row: dict, at: str) -> Messages:
    """Of `context`, a list of messages, or of `prompt`, in which turns after the first stand behind <extra_id_1>."""
    if "context" in row:
        return prompt_messages({"messages": row["context"]}, at)
    first, *rest = _TURN.split(text_in(column(row, "prompt", at), at, "prompt"))
    turns = [{"role": "user", "content": first}] if first.strip() else []
    turns += [{"role": role.lower(), "content": content} for role, content in zip(rest[::2], rest[1::2], strict=True)]
    return prompt_messages({"messages": turns}, at)
