"""The limit on a prompt's length: longer prompts stop the run, or are left out and counted, as the configuration says."""

from collections.abc import Callable, Sequence
from typing import Literal

from scale_rlhf.errors import DataError


def within_limit(
    rows: Sequence[dict], count: Callable[[list[dict]], int], limit: int, long_prompts: Literal["error", "filter"],
) -> tuple[list[dict], int]:
    """Rows whose prompt has at most `limit` tokens, in order, and how many were left out.

    rows: as `read.prompts` gives them. count: tokens of messages, chat template included. Raises DataError with the place
    of the first long prompt where `long_prompts` is "error", and where no prompt is left.
    """
    lengths = [count(row["messages"]) for row in rows]
    long = [i for i, length in enumerate(lengths) if length > limit]
    if long and long_prompts == "error":
        raise DataError(
            f"{rows[long[0]]['_at']}: the prompt has {lengths[long[0]]} tokens, more than data.max_prompt_tokens ({limit}); "
            f"{len(long)} of {len(rows)} prompts are too long, the longest has {max(lengths)}. "
            "Raise data.max_prompt_tokens, or leave them out with data.long_prompts=filter"
        )
    if rows and len(long) == len(rows):
        raise DataError(f"{rows[0]['_at']} and all {len(rows)} prompts have more than data.max_prompt_tokens ({limit}) tokens; "
                        f"the shortest has {min(lengths)}")
    return [row for row, length in zip(rows, lengths, strict=True) if length <= limit], len(long)
