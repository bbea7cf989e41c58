"""UltraFeedback: an `instruction` and its `completions`, each with a `response` and `annotations`, an aspect a name.

An annotation is {"Rating": "1" to "5", or "N/A", …}, or a list of such, one a rater.
"""

from scale_rlhf.data.convert.form import OUR_ASPECTS, column, on_our_scale
from scale_rlhf.data.messages import text_in
from scale_rlhf.data.rows import shown
from scale_rlhf.errors import DataError

NOT_RATED = ("N/A", "", None)


def ultrafeedback(row: dict, at: str) -> dict | None:
    """Ratings by aspect of the completions that are rated in every one; None where there is no such completion."""
    prompt = text_in(column(row, "instruction", at), at, "instruction")
    completions = column(row, "completions", at)
    if not isinstance(completions, list):
        raise DataError(f"{at}: `completions` must be a list; found {shown(completions)}")
    responses, ratings = [], {}
    for completion in completions:
        rated = _rated(column(completion, "annotations", at), at)
        if not rated or not all(rated.values()) or (ratings and rated.keys() != ratings.keys()):
            continue
        responses.append(text_in(column(completion, "response", at), at, "response"))
        for aspect, numbers in rated.items():
            ratings.setdefault(aspect, []).append(numbers)
    return {"prompt": prompt, "responses": responses, "ratings": ratings} if responses else None


def _rated(annotations: object, at: str) -> dict[str, list[float]]:
    """The raters' numbers by aspect: none of an aspect that was not rated."""
    if not isinstance(annotations, dict):
        raise DataError(f"{at}: `annotations` must be an object with an aspect a name; found {shown(annotations)}")
    found = {}
    for aspect, annotation in annotations.items():
        raters = annotation if isinstance(annotation, list) else [annotation]
        numbers = [column(rater, "Rating", at) for rater in raters]
        rated = [on_our_scale(number, 1, 5, at) for number in numbers if number not in NOT_RATED]
        found[OUR_ASPECTS.get(aspect, aspect)] = rated
    return found
