"""The forms in which people keep instructions, feedback and prompts, each brought to one normal form (docs/data.md).

A row comes with the place it stands at ("FILE:LINE"), which every DataError names. Normal forms: messages are
[{"role", "content"}, …] with roles system, user, assistant; a response is a string.
"""

import json
import math

from scale_rlhf.data.messages import Messages, checked_messages, missing, parse_dialogue, text_in
from scale_rlhf.data.rows import shown
from scale_rlhf.errors import DataError

BEST_FIRST = "best-to-worst"
_COMPARED = ("chosen", "rejected", "responses", "ratings")  # columns of rows that compare responses


def prompt_messages(row: dict, at: str) -> Messages:
    """What the model is to answer, up to the user's turn: from `messages`, `prompt`, or what `chosen` and `rejected` share."""
    if "prompt" in row:
        turns = _prompt_turns(row["prompt"], at)
    elif "messages" in row:
        turns = checked_messages(row["messages"], at, "messages")
    elif "chosen" in row:
        return preference_pair(row, at)["messages"]
    else:
        raise missing("prompt", row, at, "`prompt` or `messages`")
    if turns and turns[-1]["role"] == "assistant":
        turns = turns[:-1]
    if not turns or turns[-1]["role"] != "user":
        raise DataError(f"{at}: a prompt must end with a turn of the user; found roles {[turn['role'] for turn in turns]}")
    return turns


def instruction_messages(row: dict, at: str) -> Messages:
    """A conversation that ends with the answer to learn: from `messages`, `prompt` and `response`, or the preferred answer."""
    if "response" in row or _has_completion(row):
        turns = prompt_messages(row, at) + [{"role": "assistant", "content": _response(row, at)}]
    elif "messages" in row and "chosen" not in row and "responses" not in row:
        turns = checked_messages(row["messages"], at, "messages")
    elif "chosen" in row:
        pair = preference_pair(row, at)
        turns = pair["messages"] + [{"role": "assistant", "content": pair["chosen"]}]
    elif "responses" in row:
        turns = prompt_messages(row, at) + [{"role": "assistant", "content": _best(row, at)}]
    else:
        raise missing("response", row, at, "`prompt` and `response`, or `messages`, or `chosen`")
    if not turns or turns[-1]["role"] != "assistant":
        roles = [turn["role"] for turn in turns]
        raise DataError(f"{at}: an instruction must end with a turn of the assistant; found roles {roles}")
    return turns


def preference_pair(row: dict, at: str) -> dict:
    """{"messages", "chosen", "rejected", "margin"} from strings, from hh-rlhf dialogues or from lists of messages.

    margin: how much better the chosen one is, where the row has a column `margin`; else None.
    """
    for column in ("chosen", "rejected"):
        if column not in row:
            raise missing(column, row, at, "`chosen` and `rejected` (or `prompt`, `responses` and `ratings`)")
    chosen, rejected = row["chosen"], row["rejected"]
    if "prompt" in row or "messages" in row:
        messages = prompt_messages({k: row[k] for k in ("prompt", "messages") if k in row}, at)
        return _pair(messages, _answer(chosen, at, "chosen"), _answer(rejected, at, "rejected"), _margin(row, at))
    return _pair(*_divided(_dialogue(chosen, at, "chosen"), _dialogue(rejected, at, "rejected"), at), _margin(row, at))


def rated_responses(row: dict, at: str) -> dict:
    """{"messages", "responses": [n strings], "ratings": {aspect: n lists with one number a rater}}.

    row: `prompt` or `messages`, `responses`, and `ratings`: n numbers or n lists, which come back under the aspect "", or
    a mapping from aspects to such. Every list has at least one number; raters may be fewer for one response than for another.
    """
    for column in ("responses", "ratings"):
        if column not in row:
            raise missing(column, row, at, "`prompt`, `responses` and `ratings`")
    messages, responses, ratings = prompt_messages(row, at), _responses(row, at), row["ratings"]
    if not isinstance(ratings, dict):
        return {"messages": messages, "responses": responses, "ratings": {"": _ratings(ratings, len(responses), at, "ratings")}}
    aspects = {text_in(aspect, at, "ratings"): of_one for aspect, of_one in ratings.items() if of_one is not None}
    if not aspects or "" in aspects:  # Parquet writes null for an aspect that only other rows have
        raise DataError(f"{at}: `ratings` must be a list, or a mapping from aspects such as helpful to lists; "
                        f"found {shown(ratings)}")
    found = {aspect: _ratings(of_one, len(responses), at, f"ratings.{aspect}") for aspect, of_one in aspects.items()}
    return {"messages": messages, "responses": responses, "ratings": found}


def ranked_responses(row: dict, at: str) -> dict:
    """{"messages", "responses": [K strings], "ranks": [K integers, 1 is best, equal where tied]}.

    row: `prompt` or `messages`, `responses`, and either `ranks` or `ranking: best-to-worst`, the responses then best first.
    """
    if "responses" not in row:
        raise missing("responses", row, at, f"`prompt`, `responses` and `ranks` (or `ranking: {BEST_FIRST}`)")
    if "ranks" not in row and "ranking" not in row:
        raise missing("ranks", row, at, f"`ranks` beside `responses` (or `ranking: {BEST_FIRST}`)")
    messages, responses = prompt_messages(row, at), _responses(row, at)
    if len(responses) < 2:
        raise DataError(f"{at}: a ranking needs at least two `responses`; found {shown(responses)}")
    if row.get("ranking") is not None:
        if row["ranking"] != BEST_FIRST or row.get("ranks") is not None:
            raise DataError(f"{at}: `ranking` must be \"{BEST_FIRST}\", the responses best first; any other order is written as "
                            f"`ranks` instead, 1 the best; found {shown(row['ranking'])}")
        return {"messages": messages, "responses": responses, "ranks": list(range(1, len(responses) + 1))}
    ranks = row["ranks"]
    if not isinstance(ranks, list) or len(ranks) != len(responses) or not all(_is_rank(rank) for rank in ranks):
        raise DataError(f"{at}: `ranks` must be a list with one integer from 1, the best, for each response "
                        f"({len(responses)}); found {shown(ranks)}")
    return {"messages": messages, "responses": responses, "ranks": ranks}


def judged_response(row: dict, at: str) -> dict:
    """{"messages", "response": str, "good": bool} from `response` and `good`, or from `completion` and `label`."""
    response, verdict = ("completion", "label") if "completion" in row and "good" not in row else ("response", "good")
    for column in (response, verdict):
        if column not in row:
            raise missing(column, row, at, "`prompt`, `response` and `good` (or `completion` and `label`)")
    good = row[verdict]
    if isinstance(good, str):  # all that CSV has
        good = {"true": True, "false": False}.get(good.strip().lower(), good)
    if not isinstance(good, bool):
        raise DataError(f"{at}: `{verdict}` must be true or false; found {shown(row[verdict])}")
    return {"messages": prompt_messages(row, at), "response": _response(row, at), "good": good}


def is_judged(row: dict) -> bool:
    """Whether a row says of one response that it is good or bad."""
    alone = not any(column in row for column in _COMPARED)
    return alone and ("response" in row and "good" in row or "completion" in row and "label" in row)


def is_bad(row: dict, at: str) -> bool:
    """Whether a row's one response is judged bad, so that nobody should learn it."""
    return is_judged(row) and not judged_response(row, at)["good"]


def is_ranked(row: dict) -> bool:
    """Whether a row's responses are ranked. Where they are rated as well, the ratings say more."""
    return "ratings" not in row and ("ranks" in row or "ranking" in row)


def mean_ratings(rated: dict) -> list[float]:
    """One number a response [n] of `rated_responses`: the mean over raters, and over aspects where there are several."""
    by_aspect = [[_mean(numbers) for numbers in of_one] for of_one in rated["ratings"].values()]
    return [_mean(of_response) for of_response in zip(*by_aspect, strict=True)]


def pairs_from_ratings(row: dict, minimum_gap: float, at: str = "row") -> list[dict]:
    """Every pair of responses whose mean ratings differ by at least `minimum_gap` (and differ at all).

    row: as `rated_responses` takes it. Returns preference rows; `margin` is the difference of the mean ratings.
    """
    rated = rated_responses(row, at)
    responses, means = rated["responses"], mean_ratings(rated)
    pairs = []
    for better, worse in _best_first([-mean for mean in means]):
        gap = means[better] - means[worse]
        if gap > 0 and gap >= minimum_gap:
            pairs.append(_pair(rated["messages"], responses[better], responses[worse], gap))
    return pairs


def pairs_from_ranking(row: dict, at: str = "row") -> list[dict]:
    """Every pair of responses of different rank; the `margin` is None, as ranks do not say how much better."""
    ranked = ranked_responses(row, at)
    responses, ranks = ranked["responses"], ranked["ranks"]
    return [_pair(ranked["messages"], responses[better], responses[worse])
            for better, worse in _best_first(ranks) if ranks[better] < ranks[worse]]


def pairs_from_judgements(judged: list[dict]) -> list[dict]:
    """Every good response with every bad one to the same prompt. judged: what `judged_response` gave, row after row."""
    by_prompt: dict[str, tuple[Messages, dict[bool, list[str]]]] = {}
    for one in judged:
        _, sides = by_prompt.setdefault(json.dumps(one["messages"]), (one["messages"], {True: [], False: []}))
        sides[one["good"]].append(one["response"])
    return [_pair(messages, good, bad) for messages, sides in by_prompt.values() for good in sides[True] for bad in sides[False]]


def preference_rows(row: dict, at: str, minimum_gap: float) -> list[dict]:
    """The pairs of one row: one of `chosen` and `rejected`, or those of its ratings or ranks.

    None of a response judged alone, which `pairs_from_judgements` compares with those of other rows.
    """
    if "responses" in row or "ratings" in row or (is_ranked(row) and "chosen" not in row):
        return pairs_from_ranking(row, at) if is_ranked(row) else pairs_from_ratings(row, minimum_gap, at)
    if is_judged(row):
        judged_response(row, at)
        return []
    return [preference_pair(row, at)]


def text_of(row: dict, at: str) -> str:
    """Base text: `text`, or what an instruction says, turn by turn."""
    if "text" in row:
        return text_in(row["text"], at, "text")
    if not {"messages", "response", "completion", "chosen", "responses"} & row.keys():
        raise missing("text", row, at, "`text`")
    return "\n".join(turn["content"] for turn in instruction_messages(row, at))


def _pair(messages: Messages, chosen: str, rejected: str, margin: float | None = None) -> dict:
    return {"messages": messages, "chosen": chosen, "rejected": rejected, "margin": margin}


def _margin(row: dict, at: str) -> float | None:
    value = row.get("margin")
    if isinstance(value, str):  # all that CSV has
        try:
            value = float(value) if value.strip() else None
        except ValueError:
            pass
    if value is None:
        return None
    if not _is_number(value) or value < 0:
        raise DataError(f"{at}: `margin` must be a number from 0, by how much the chosen response is better; "
                        f"found {shown(row['margin'])}")
    return float(value)


def _best_first(places: list[float]) -> list[tuple[int, int]]:
    """(better, worse) of all pairs, indices into `places`, of which the lowest is best; the best's pairs before the others'."""
    order = sorted(range(len(places)), key=places.__getitem__)
    return [(better, worse) for number, better in enumerate(order) for worse in order[number + 1 :]]


def _prompt_turns(prompt: object, at: str) -> Messages:
    if isinstance(prompt, list):
        return checked_messages(prompt, at, "prompt")
    text = text_in(prompt, at, "prompt")
    turns = parse_dialogue(text)
    if turns is None:
        return [{"role": "user", "content": text}]
    return turns


def _has_completion(row: dict) -> bool:
    """Whether `completion` is the answer, as TRL has it; beside `messages` alone it is some other column."""
    return "completion" in row and ("prompt" in row or "label" in row) and not any(column in row for column in _COMPARED)


def _response(row: dict, at: str) -> str:
    """Of `response`, or of `completion`, which may also hold messages."""
    if "response" in row:
        return text_in(row["response"], at, "response")
    return _answer(row["completion"], at, "completion")


def _answer(value: object, at: str, column: str) -> str:
    """The response alone, where the column may hold it as a string, as one message, or with the whole dialogue before it."""
    if isinstance(value, str):
        turns = parse_dialogue(text_in(value, at, column))
        if turns is None:
            return value
    else:
        turns = checked_messages(value, at, column)
    if not turns or turns[-1]["role"] != "assistant":
        raise DataError(f"{at}: `{column}` must end with a turn of the assistant")
    return turns[-1]["content"]


def _dialogue(value: object, at: str, column: str) -> Messages:
    turns = parse_dialogue(text_in(value, at, column)) if isinstance(value, str) else checked_messages(value, at, column)
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


def _responses(row: dict, at: str) -> list[str]:
    responses = row["responses"]
    if not isinstance(responses, list) or not responses:
        raise DataError(f"{at}: `responses` must be a list of strings; found {shown(responses)}")
    return [text_in(response, at, "responses") for response in responses]


def _ratings(ratings: object, count: int, at: str, column: str) -> list[list[float]]:
    """The raters' numbers for each response."""
    if not isinstance(ratings, list) or len(ratings) != count:
        raise DataError(f"{at}: `{column}` must be a list with one entry a response ({count}); found {shown(ratings)}")
    numbers = [rating if isinstance(rating, list) else [rating] for rating in ratings]
    for rating, of_one in zip(ratings, numbers, strict=True):
        if not of_one or not all(_is_number(number) for number in of_one):
            raise DataError(f"{at}: a rating must be a number, or a list with one number a rater; found {shown(rating)}")
    return numbers


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9  # NaN fails the comparison too


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 1e9


def _mean(numbers: list[float]) -> float:
    return math.fsum(numbers) / len(numbers)


def _best(row: dict, at: str) -> str:
    """The response that is ranked or rated best, the first of several."""
    if is_ranked(row):
        ranked = ranked_responses(row, at)
        return min(zip(ranked["ranks"], ranked["responses"], strict=True), key=lambda one: one[0])[1]
    rated = rated_responses(row, at)
    return max(zip(mean_ratings(rated), rated["responses"], strict=True), key=lambda one: one[0])[1]
