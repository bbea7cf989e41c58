"""What a function needs of the rows of the data file."""

from typing import Any

from scale_rlhf.errors import ConfigError


def column(sample: dict, name: str, who: str) -> Any:
    """A column of the sample's row. Raises ConfigError that names file and line, and what the row has."""
    row = sample["row"]
    if row.get(name) is None:
        has = ", ".join(f"`{one}`" for one in row if one not in ("_at", "messages")) or "nothing beside the prompt"
        raise ConfigError(f"{row.get('_at', 'a row without a place')}: {who} needs the column `{name}`, and the row has {has}; "
                          "name another one in reward.arguments, or rename the file's in data.prompts.columns")
    return row[name]
