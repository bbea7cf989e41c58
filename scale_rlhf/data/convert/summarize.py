"""OpenAI's summarize-from-feedback: two `summaries` of a post or an article and the `choice` between them, or one `summary`
with `axes` from 1 to 7, by one worker a row.
"""

from scale_rlhf.data.convert.form import column, on_our_scale
from scale_rlhf.data.messages import text_in
from scale_rlhf.data.rows import shown
from scale_rlhf.errors import DataError

AXES = ("overall", "accuracy", "coverage", "coherence")


def summarize_from_feedback(row: dict, at: str) -> dict | None:
    """A pair, or ratings by aspect of one summary; None where it is not rated."""
    messages = [{"role": "user", "content": _prompt(column(row, "info", at), at)}]
    if "summaries" in row:
        return {"messages": messages, **_choice(row, at)}
    summary = column(row, "summary", at)
    axes = column(summary, "axes", at)
    rated = {name: column(axes, name, at) for name in AXES if isinstance(axes, dict) and axes.get(name) is not None}
    if not rated:
        return None
    ratings = {name: [[on_our_scale(number, 1, 7, at)]] for name, number in rated.items()}
    return {"messages": messages, "responses": [_summary(summary, at)], "ratings": ratings}


def _choice(row: dict, at: str) -> dict:
    summaries, choice = row["summaries"], column(row, "choice", at)
    if not isinstance(summaries, list) or len(summaries) != 2 or type(choice) is not int or choice not in (0, 1):
        raise DataError(f"{at}: expected two `summaries` and `choice` 0 or 1; found {shown(summaries)} and {shown(choice)}")
    return {"chosen": _summary(summaries[choice], at), "rejected": _summary(summaries[1 - choice], at)}


def _summary(summary: object, at: str) -> str:
    return text_in(column(summary, "text", at), at, "text").strip()


def _prompt(info: object, at: str) -> str:
    """As the paper's models saw it: the post with its title, or the article, up to the words that a summary follows."""
    if not isinstance(info, dict) or (info.get("post") is None and info.get("article") is None):
        raise DataError(f"{at}: `info` must be an object with a `post` or an `article`; found {shown(info)}")
    if info.get("post") is None:
        return f"{text_in(info['article'], at, 'article')}\n\nTL;DR:"
    forum = f"r/{info['subreddit']}" if info.get("subreddit") else None
    parts = {"SUBREDDIT": forum, "TITLE": info.get("title"), "POST": info["post"]}
    lines = [f"{name}: {text_in(text, at, name.lower())}" for name, text in parts.items() if text is not None]
    return "\n\n".join([*lines, "TL;DR:"])
