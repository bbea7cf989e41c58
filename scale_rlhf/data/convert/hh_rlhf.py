"""Anthropic's hh-rlhf: `chosen` and `rejected`, each a whole dialogue "\\n\\nHuman: …\\n\\nAssistant: …"."""

from scale_rlhf.data.forms import preference_pair
from scale_rlhf.data.messages import Messages, parse_dialogue


def hh_rlhf(row: dict, at: str) -> dict:
    """A pair, with what the two dialogues share as its messages."""
    pair = preference_pair(row, at)
    return {"messages": pair["messages"], "chosen": _answer(pair["chosen"]), "rejected": _answer(pair["rejected"])}


def _answer(text: str) -> str | Messages:
    """As a message, where an answer that begins with "Human:" would be read as a dialogue."""
    return text if parse_dialogue(text) is None else [{"role": "assistant", "content": text}]
