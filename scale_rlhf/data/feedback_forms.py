"""Rows of ratings, rankings and verdicts, each brought to its normal form: see `feedback.py` for who reads them.

A row comes with the place it stands at ("FILE:LINE"), which every DataError names. Messages are as in `forms.py`.
"""

import math

from scale_rlhf.data.forms import prompt_messages
from scale_rlhf.data.rows import has, shown
from scale_rlhf.errors import DataError


def rated_responses(row: dict, at: str) -> dict:
    """{"messages", "responses": [n], "ratings": {aspect, or "" where there are none: [n lists, a number a rater]}}."""
    responses, ratings = _responses(row, at), _column(row, "ratings", at)
    by_aspect = ratings if isinstance(ratings, dict) else {"": ratings}
    if not by_aspect:
        raise DataError(f"{at}: `ratings` names no aspect; expected {{aspect: [one entry a response]}}")
    kept = {}
    for aspect, given in by_aspect.items():
        name = f"`ratings`{f' of {aspect!r}' if aspect else ''}"
        if not isinstance(given, list) or len(given) != len(responses):
            raise DataError(f"{at}: {name} must be a list with one entry a response ({len(responses)}); found {shown(given)}")
        kept[aspect] = [_numbers(rating, at, name) for rating in given]
    return {"messages": prompt_messages(row, at), "responses": responses, "ratings": kept}


def ranked_responses(row: dict, at: str) -> dict:
    """{"messages", "responses": [K], "ranks": [K whole numbers, 1 the best, equal ones a tie]}."""
    responses = _responses(row, at)
    if row.get("ranking") == "best-to-worst":
        ranks = list(range(1, len(responses) + 1))
    elif "ranking" in row:
        raise DataError(f"{at}: `ranking` must be \"best-to-worst\"; found {shown(row['ranking'])}. Other orders are `ranks`")
    else:
        ranks = _column(row, "ranks", at)
    if not isinstance(ranks, list) or len(ranks) != len(responses) or not all(_is_rank(rank) for rank in ranks):
        raise DataError(f"{at}: `ranks` must be {len(responses)} whole numbers from 1, one a response; found {shown(ranks)}")
    return {"messages": prompt_messages(row, at), "responses": responses, "ranks": ranks}


def judged_response(row: dict, at: str) -> dict:
    """{"messages", "response", "good": bool}."""
    response, good = _column(row, "response", at), _column(row, "good", at)
    if not isinstance(response, str):
        raise DataError(f"{at}: `response` must be text; found {shown(response)}")
    if not isinstance(good, bool):
        raise DataError(f"{at}: `good` must be true or false; found {shown(good)}")
    return {"messages": prompt_messages(row, at), "response": response, "good": good}


def _responses(row: dict, at: str) -> list[str]:
    responses = _column(row, "responses", at)
    if not isinstance(responses, list) or not responses or not all(isinstance(response, str) for response in responses):
        raise DataError(f"{at}: `responses` must be a list of strings; found {shown(responses)}")
    return responses


def _numbers(rating: object, at: str, name: str) -> list[float]:
    numbers = rating if isinstance(rating, list) else [rating]
    plain = all(isinstance(one, (int, float)) and not isinstance(one, bool) and math.isfinite(one) for one in numbers)
    if not numbers or not plain:
        raise DataError(f"{at}: an entry of {name} must be a number, or a list with one number a rater; found {shown(rating)}")
    return [float(number) for number in numbers]


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _column(row: dict, name: str, at: str) -> object:
    if name not in row:
        raise DataError(f"{at}: no column `{name}`; {has(row)}. "
                        "A column of another name is mapped by `columns: {ours: theirs}`")
    return row[name]
