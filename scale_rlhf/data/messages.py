"""Messages, in the forms in which people keep a conversation, checked and brought to one: [{"role", "content"}, …].

Roles are system, user, assistant. Whatever is wrong is a DataError that names the place where the row stands.
"""

import re

from scale_rlhf.data.rows import has, nearest, shown
from scale_rlhf.errors import DataError

ROLES = ("system", "user", "assistant")
Messages = list[dict[str, str]]

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")
_DIALOGUE_ROLES = {"Human": "user", "Assistant": "assistant"}


def parse_dialogue(text: str) -> Messages | None:
    """Turns of "\\n\\nHuman: …\\n\\nAssistant: …", the form of Anthropic's hh-rlhf; None where `text` is not in it."""
    if not re.match(r"\s*Human:", text):
        return None
    parts = _TURN.split(text.lstrip())
    turns: Messages = []
    for speaker, content in zip(parts[1::2], parts[2::2], strict=True):
        role = _DIALOGUE_ROLES[speaker]
        if turns and turns[-1]["role"] == role:  # a few dialogues have two turns of one speaker in a row
            turns[-1]["content"] += "\n\n" + content.strip()
        else:
            turns.append({"role": role, "content": content.strip()})
    return turns


def checked_messages(value: object, at: str, column: str) -> Messages:
    """The value of a column, where it is a list of at least one message."""
    if not isinstance(value, list) or not value:
        raise DataError(f"{at}: `{column}` must be a list of messages {{role, content}}; found {shown(value)}")
    turns = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise DataError(f"{at}: message {number} of `{column}` must have `role` and `content`; found {shown(message)}")
        role = message["role"]
        if role not in ROLES:
            hint = nearest(role, ROLES) if isinstance(role, str) else ""
            raise DataError(f"{at}: message {number} of `{column}` has role {shown(role)}; "
                            f"expected one of {', '.join(ROLES)}{hint}")
        turns.append({"role": role, "content": text_in(message["content"], at, f"{column}[{number - 1}].content")})
    return turns


def text_in(value: object, at: str, column: str) -> str:
    """The value, where it is text that a file can hold."""
    if not isinstance(value, str):
        raise DataError(f"{at}: `{column}` must be text; found {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{at}: `{column}` holds half of a surrogate pair, which is no text") from None
    return value


def missing(column: str, row: dict, at: str, expected: str) -> DataError:
    """What to raise where a row has no such column: what was expected, what it has, what may be meant."""
    near = nearest(column, row).replace("did you mean", "is it")
    return DataError(f"{at}: no column `{column}`; expected {expected}; {has(row)}{near}. "
                     "A column of another name is mapped by `columns: {ours: theirs}`")
