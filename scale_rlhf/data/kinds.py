"""Which kind of row it is, and what it says: the seven kinds of feedback of docs/data.md, and a run's prompts and texts."""

from dataclasses import dataclass, field

from scale_rlhf.data.forms import (
    instruction_messages,
    is_judged,
    is_ranked,
    judged_response,
    preference_rows,
    prompt_messages,
    ranked_responses,
    rated_responses,
    text_of,
)
from scale_rlhf.data.messages import Messages
from scale_rlhf.data.rows import has
from scale_rlhf.errors import DataError

KINDS = {
    "instruction": "`prompt` and `response`",
    "conversation": "`messages` that end with the assistant's",
    "pair": "`chosen` and `rejected`",
    "rating": "`responses` and `ratings`",
    "aspects": "`responses` and `ratings` by aspect",
    "ranking": "`responses` and `ranks`, or `ranking`",
    "judgement": "`response` and `good`",
    "prompt": "`prompt`, or `messages` that end with the user's",
    "text": "`text`",
}
_ABOUT_SEVERAL = {"ratings", "ranks", "ranking"}
_ABOUT_ONE = {"response", "completion", "messages", "chosen", "rejected", "text"}


@dataclass(frozen=True)
class Said:
    """What a row says: of which responses to what, and how they were found."""

    kind: str
    messages: Messages = field(default_factory=list)  # of the prompt; none of a text
    responses: list[str] = field(default_factory=list)
    verdict: object = None  # ratings by aspect, ranks, or whether it is good
    pairs: list[tuple[str, str]] = field(default_factory=list)  # (better, worse) of the row's own responses


def kind_of(row: dict, at: str) -> str:
    """A name of `KINDS`, by the columns; DataError where they are of none."""
    if "responses" in row or (_ABOUT_SEVERAL & row.keys() and not _ABOUT_ONE & row.keys()):
        if is_ranked(row):
            return "ranking"
        return "aspects" if isinstance(row.get("ratings"), dict) else "rating"
    if "chosen" in row or "rejected" in row:
        return "pair"
    if is_judged(row):
        return "judgement"
    if "response" in row or ("completion" in row and "prompt" in row):
        return "instruction"
    if "messages" in row:
        return "conversation" if _last_role(row["messages"]) == "assistant" else "prompt"
    for kind in ("prompt", "text"):
        if kind in row:
            return kind
    raise DataError(f"{at}: no kind of row that is known; {has(row)}. Expected one of: " + "; ".join(KINDS.values()))


def said(row: dict, at: str) -> Said:
    """What the row says in its normal form; DataError where it is of no kind, or not as its kind must be."""
    kind = kind_of(row, at)
    if kind in ("instruction", "conversation"):
        *messages, answer = instruction_messages(row, at)
        return Said(kind, messages, [answer["content"]])
    if kind == "prompt":
        return Said(kind, prompt_messages(row, at))
    if kind == "text":
        return Said(kind, responses=[text_of(row, at)])
    if kind == "judgement":
        judged = judged_response(row, at)
        return Said(kind, judged["messages"], [judged["response"]], judged["good"])
    compared = preference_rows(row, at, minimum_gap=0.0)
    pairs = [(pair["chosen"], pair["rejected"]) for pair in compared]
    if kind == "pair":
        return Said(kind, compared[0]["messages"], list(pairs[0]), None, pairs)
    if kind == "ranking":
        ranked = ranked_responses(row, at)
        return Said(kind, ranked["messages"], ranked["responses"], ranked["ranks"], pairs)
    rated = rated_responses(row, at)
    return Said(kind, rated["messages"], rated["responses"], rated["ratings"], pairs)


def _last_role(messages: object) -> object:
    last = messages[-1] if isinstance(messages, list) and messages else None
    return last.get("role") if isinstance(last, dict) else None
