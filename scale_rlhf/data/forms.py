"""The forms in which people keep instructions, preferences and prompts, each brought to one normal form.

A row comes with the place it stands at ("FILE:LINE"), which every DataError names. Normal forms:
messages are [{"role", "content"}, …] with roles system, user, assistant; a response is a string.
"""

import math
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


def prompt_messages(row: dict, at: str) -> Messages:
    """What the model is to answer, up to the user's turn: from `messages`, `prompt`, or what `chosen` and `rejected` share."""
    if "prompt" in row:
        turns = _prompt_turns(row["prompt"], at)
    elif "messages" in row:
        turns = _checked_messages(row["messages"], at, "messages")
    elif "chosen" in row:
        return preference_pair(row, at)["messages"]
    else:
        raise _missing("prompt", row, at, "`prompt` or `messages`")
    if turns and turns[-1]["role"] == "assistant":
        turns = turns[:-1]
    if not turns or turns[-1]["role"] != "user":
        raise DataError(f"{at}: a prompt must end with a turn of the user; found roles {[turn['role'] for turn in turns]}")
    return turns


def instruction_messages(row: dict, at: str) -> Messages:
    """A conversation that ends with the answer to learn: from `messages`, `prompt` and `response`, or the preferred answer."""
    if "response" in row:
        turns = prompt_messages(row, at) + [{"role": "assistant", "content": _text(row["response"], at, "response")}]
    elif "messages" in row and "chosen" not in row and "responses" not in row:
        turns = _checked_messages(row["messages"], at, "messages")
    elif "chosen" in row:
        pair = preference_pair(row, at)
        turns = pair["messages"] + [{"role": "assistant", "content": pair["chosen"]}]
    elif "responses" in row:
        turns = prompt_messages(row, at) + [{"role": "assistant", "content": _best_rated(row, at)}]
    else:
        raise _missing("response", row, at, "`prompt` and `response`, or `messages`, or `chosen`")
    if not turns or turns[-1]["role"] != "assistant":
        roles = [turn["role"] for turn in turns]
        raise DataError(f"{at}: an instruction must end with a turn of the assistant; found roles {roles}")
    return turns


def preference_pair(row: dict, at: str) -> dict:
    """{"messages", "chosen", "rejected", "margin": None} from strings, from hh-rlhf dialogues or from lists of messages."""
    for column in ("chosen", "rejected"):
        if column not in row:
            raise _missing(column, row, at, "`chosen` and `rejected` (or `prompt`, `responses` and `ratings`)")
    chosen, rejected = row["chosen"], row["rejected"]
    if "prompt" in row or "messages" in row:
        messages = prompt_messages({k: row[k] for k in ("prompt", "messages") if k in row}, at)
        return _pair(messages, _answer(chosen, messages, at, "chosen"), _answer(rejected, messages, at, "rejected"))
    return _pair(*_divided(_dialogue(chosen, at, "chosen"), _dialogue(rejected, at, "rejected"), at))


def pairs_from_ratings(row: dict, minimum_gap: float, at: str = "row") -> list[dict]:
    """Every pair of responses whose mean ratings differ by at least `minimum_gap` (and differ at all).

    row: `prompt` or `messages`, `responses` [n strings], `ratings` [n numbers, or n lists with one number a rater].
    Returns preference rows; `margin` is the difference of the mean ratings.
    """
    messages, (responses, means) = prompt_messages(row, at), _rated(row, at)
    order = sorted(range(len(responses)), key=lambda i: -means[i])
    pairs = []
    for place, better in enumerate(order):
        for worse in order[place + 1 :]:
            gap = means[better] - means[worse]
            if gap > 0 and gap >= minimum_gap:
                pairs.append({"messages": messages, "chosen": responses[better], "rejected": responses[worse], "margin": gap})
    return pairs


def preference_rows(row: dict, at: str, minimum_gap: float) -> list[dict]:
    """The pairs of one row: one of `chosen` and `rejected`, or those of its ratings."""
    if "responses" in row or "ratings" in row:
        return pairs_from_ratings(row, minimum_gap, at)
    return [preference_pair(row, at)]


def text_of(row: dict, at: str) -> str:
    """Base text: `text`, or what an instruction says, turn by turn."""
    if "text" in row:
        return _text(row["text"], at, "text")
    if not {"messages", "response", "chosen", "responses"} & row.keys():
        raise _missing("text", row, at, "`text`")
    return "\n".join(turn["content"] for turn in instruction_messages(row, at))


def _pair(messages: Messages, chosen: str, rejected: str) -> dict:
    return {"messages": messages, "chosen": chosen, "rejected": rejected, "margin": None}


def _prompt_turns(prompt: object, at: str) -> Messages:
    if isinstance(prompt, list):
        return _checked_messages(prompt, at, "prompt")
    text = _text(prompt, at, "prompt")
    turns = parse_dialogue(text)
    if turns is None:
        return [{"role": "user", "content": text}]
    return turns


def _answer(value: object, prompt: Messages, at: str, column: str) -> str:
    """The response alone, where the column may hold it as a string, as one message, or with the whole dialogue before it."""
    if isinstance(value, str):
        turns = parse_dialogue(_text(value, at, column))
        if turns is None:
            return value
    else:
        turns = _checked_messages(value, at, column)
    if not turns or turns[-1]["role"] != "assistant":
        raise DataError(f"{at}: `{column}` must end with a turn of the assistant")
    return turns[-1]["content"]


def _dialogue(value: object, at: str, column: str) -> Messages:
    turns = parse_dialogue(_text(value, at, column)) if isinstance(value, str) else _checked_messages(value, at, column)
    if turns is None:
        raise DataError(
            f"{at}: `{column}` has no `prompt` beside it, so it must be a whole dialogue: "
            f"\"\\n\\nHuman: …\\n\\nAssistant: …\" or a list of messages; found {shown(value)}"
        )
    return turns


def _divided(chosen: Messages, rejected: Messages, at: str) -> tuple[Messages, str, str]:
    """Longest shared beginning that ends with the user's turn, and the text that follows it in each."""
    shared = 0
    for length, (one, other) in enumerate(zip(chosen, rejected, strict=False), 1):
        if one != other:
            break
        if one["role"] == "user":
            shared = length
    answers = [turns[shared:] for turns in (chosen, rejected)]
    if not shared or any(not rest or rest[0]["role"] != "assistant" for rest in answers):
        raise DataError(f"{at}: `chosen` and `rejected` must share their turns up to a user's turn, "
                        "then differ in the assistant's")
    return chosen[:shared], *("\n\n".join(turn["content"] for turn in rest) for rest in answers)


def _rated(row: dict, at: str) -> tuple[list[str], list[float]]:
    for column in ("responses", "ratings"):
        if column not in row:
            raise _missing(column, row, at, "`prompt`, `responses` and `ratings`")
    responses, ratings = row["responses"], row["ratings"]
    if not isinstance(responses, list) or not responses:
        raise DataError(f"{at}: `responses` must be a list of strings; found {shown(responses)}")
    responses = [_text(response, at, "responses") for response in responses]
    if not isinstance(ratings, list) or len(ratings) != len(responses):
        raise DataError(f"{at}: `ratings` must be a list with one entry a response ({len(responses)}); found {shown(ratings)}")
    return responses, [_mean(rating, at) for rating in ratings]


def _mean(rating: object, at: str) -> float:
    numbers = rating if isinstance(rating, list) else [rating]
    if not numbers or not all(_is_number(number) for number in numbers):
        raise DataError(f"{at}: a rating must be a number, or a list with one number a rater; found {shown(rating)}")
    return math.fsum(numbers) / len(numbers)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9  # NaN fails the comparison too


def _best_rated(row: dict, at: str) -> str:
    responses, means = _rated(row, at)
    return responses[max(range(len(means)), key=means.__getitem__)]


def _checked_messages(value: object, at: str, column: str) -> Messages:
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
        turns.append({"role": role, "content": _text(message["content"], at, f"{column}[{number - 1}].content")})
    return turns


def _text(value: object, at: str, column: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{at}: `{column}` must be text; found {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{at}: `{column}` holds half of a surrogate pair, which is no text") from None
    return value


def _missing(column: str, row: dict, at: str, expected: str) -> DataError:
    near = nearest(column, row).replace("did you mean", "is it")
    return DataError(f"{at}: no column `{column}`; expected {expected}; {has(row)}{near}. "
                     "A column of another name is mapped by `columns: {ours: theirs}`")
