"""What raters said of responses, in the one form that a reward model is trained and judged on, whatever they were asked.

    {"messages", "responses": [K], "targets": [aspects][K]}     higher is better; NaN: nobody said

pairs      the chosen response, then the rejected one; the margin and 0 (1 and 0 where there is no margin)
ratings    the mean rating of each response; comparisons the same
rankings   less the rank of each: −1 the best. Ratings are ranked by their means, equal means tie
binary     1 for good, 0 for bad; the responses to one prompt stand together
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from scale_rlhf.config.schema import DataSource
from scale_rlhf.config.supervised import Feedback
from scale_rlhf.data.forms import judged_response, ranked_responses, rated_responses
from scale_rlhf.data.rows import nearest, read_rows
from scale_rlhf.errors import DataError

if TYPE_CHECKING:
    import datasets


def judgements(
    source: DataSource, feedback: Feedback, aspects: Sequence[str] = (), key: str = "data.preferences",
) -> datasets.Dataset:
    """Dataset[messages, responses, targets] of a file of ratings, rankings (or ratings, to be ranked) or good and bad.

    aspects: keys of `ratings`, in the order of the targets; (): the ratings are numbers without names. Raises DataError with
    file and line, or where the file says nothing to learn from. Pairs are read by read.preferences, and `of_pair`.
    """
    read: Callable[[dict, str], dict] = {
        "comparisons": lambda row, at: _rated(row, at, aspects),
        "ratings": lambda row, at: _rated(row, at, aspects),
        "rankings": lambda row, at: _ranked(row, at, aspects),
        "binary": _judged,
    }[feedback]
    rows = [read(row, at) for at, row in read_rows(source, key)]
    _check_rated(rows, aspects, source.path)
    if feedback == "binary":
        rows = _by_prompt(rows)
    elif feedback == "rankings" and not any(len(set(ranks)) > 1 for row in rows for ranks in row["targets"]):
        raise DataError(f"{source.path}: no ranking sets one response above another")
    elif feedback == "comparisons" and not any(_differ(ratings) for row in rows for ratings in row["targets"]):
        raise DataError(f"{source.path}: no two responses to one prompt have different mean ratings: nothing to compare")
    return _dataset(rows)


def of_pair(pair: dict) -> dict:
    """The same form of a preference {"messages", "chosen", "rejected", "margin"}."""
    responses, targets = [pair["chosen"], pair["rejected"]], [[pair["margin"] or 1.0, 0.0]]
    return {"messages": pair["messages"], "responses": responses, "targets": targets}


def _differ(ratings: Sequence[float]) -> bool:
    return len({rating for rating in ratings if not math.isnan(rating)}) > 1


def _rated(row: dict, at: str, aspects: Sequence[str]) -> dict:
    found = rated_responses(row, at)
    means = {aspect: [math.fsum(one) / len(one) if one else math.nan for one in ratings]
             for aspect, ratings in found["ratings"].items()}
    if not aspects and "" not in means:
        raise DataError(f"{at}: `ratings` are by aspect ({', '.join(means)}); say in reward_model.aspects which to learn")
    if "" in means and aspects:
        raise DataError(f"{at}: `ratings` are not by aspect, and reward_model.aspects asks for {aspects[0]!r}; expected "
                        f"{{{aspects[0]!r}: [one entry a response]}}")
    unrated = [math.nan] * len(found["responses"])
    return {**found, "targets": [means.get(aspect, unrated) for aspect in aspects or ("",)], "aspects": list(means)}


def _check_rated(rows: Sequence[dict], aspects: Sequence[str], path: str) -> None:
    """A row may lack an aspect; one that no row has is a wrong name."""
    known = dict.fromkeys(aspect for row in rows for aspect in row.get("aspects", ()))
    for aspect in aspects:
        if aspect not in known:
            raise DataError(f"{path}: no row is rated in {aspect!r}, which reward_model.aspects names; they are in "
                            f"{', '.join(known)}{nearest(aspect, known)}")


def _ranked(row: dict, at: str, aspects: Sequence[str]) -> dict:
    if "ratings" in row and "ranks" not in row and "ranking" not in row:
        rated = _rated(row, at, aspects)
        return {**rated, "targets": [_order(means) for means in rated["targets"]]}
    if aspects:
        raise DataError(f"{at}: a ranking has no aspects, and reward_model.aspects names {', '.join(aspects)}; give `ratings` by "
                        "aspect, or leave reward_model.aspects out")
    found = ranked_responses(row, at)
    return {**found, "targets": [[-float(rank) for rank in found["ranks"]]]}


def _order(means: Sequence[float]) -> list[float]:
    """Less the rank of each mean, as if ranked by hand: 4, 4, 2 → −1, −1, −3."""
    return [math.nan if math.isnan(mean) else -1.0 - sum(other > mean for other in means) for mean in means]


def _judged(row: dict, at: str) -> dict:
    found = judged_response(row, at)
    return {"messages": found["messages"], "responses": [found["response"]], "targets": [[float(found["good"])]]}


def _by_prompt(rows: Sequence[dict]) -> list[dict]:
    together: dict[str, dict] = {}
    for row in rows:
        prompt = json.dumps(row["messages"], ensure_ascii=False)
        kept = together.setdefault(prompt, {"messages": row["messages"], "responses": [], "targets": [[]]})
        kept["responses"] += row["responses"]
        kept["targets"][0] += row["targets"][0]
    return list(together.values())


def _dataset(rows: Sequence[dict]) -> datasets.Dataset:
    from datasets import Dataset, Features, List, Value

    text, number = Value("string"), Value("float64")
    features = {"messages": List({"role": text, "content": text}), "responses": List(text), "targets": List(List(number))}
    kept = [{name: row[name] for name in features} for row in rows]
    return Dataset.from_list(kept, features=Features(features))
