"""Anthropic's hh-rlhf: `chosen` and `rejected`, each a whole dialogue "\\n\\nHuman: …\\n\\nAssistant: …"."""

from scale_rlhf.data.forms import preference_pair


def hh_rlhf(row: dict, at: str) -> dict:
    """A pair, with what the two dialogues share as its messages."""
    pair = preference_pair(row, at)
    return {name: pair[name] for name in ("messages", "chosen", "rejected")}
