"""Ray's token, which lets who has it run code on a cluster: read from where Ray reads it, and shown to nobody."""

import os
from pathlib import Path


def ray_token() -> str | None:
    """This user's: RAY_AUTH_TOKEN, else the file RAY_AUTH_TOKEN_PATH, else ~/.ray/auth_token."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        return file.read_text().strip() or None
    except (OSError, ValueError):
        return None
