"""Samples as text: for functions, for services, and for reward models that read with a tokenizer of their own."""

from collections.abc import Sequence
from typing import Any

from scale_rlhf.experience.sample import Prompt, Sample


class Reader:
    """Reads what the policy wrote. tokenizer: the policy's."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def messages(self, prompt: Prompt) -> list[dict]:
        """The dialogue before the response: the row's own, else the decoded prompt as one turn of the user."""
        if prompt.row.get("messages"):
            return list(prompt.row["messages"])
        return [{"role": "user", "content": self.prompt(prompt)}]

    def prompt(self, prompt: Prompt) -> str:
        """A prompt of one turn as it was asked; a longer dialogue as its tokens read, the template's marks included."""
        asked, messages = prompt.row.get("prompt"), prompt.row.get("messages") or []
        if isinstance(asked, str):
            return asked
        if len(messages) == 1 and isinstance(messages[0].get("content"), str):
            return messages[0]["content"]
        return self.tokenizer.decode(prompt.token_ids.tolist(), skip_special_tokens=not messages)

    def response(self, sample: Sample) -> str:
        """The response, without special tokens."""
        return self.tokenizer.decode(sample.response_ids.tolist(), skip_special_tokens=True)

    def documents(self, samples: Sequence[Sample]) -> list[dict]:
        """What a reward function is given: prompt and response as text and as ids, ended, and the row of the data file."""
        return [
            {
                "prompt": self.prompt(sample.prompt), "response": self.response(sample),
                "prompt_ids": sample.prompt.token_ids.tolist(), "response_ids": sample.response_ids.tolist(),
                "ended": sample.ended, "row": sample.prompt.row,
            }
            for sample in samples
        ]


def read_tokenizer(path: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model folder or hub name. Raises ConfigError where there is none."""
    from transformers import AutoTokenizer

    from scale_rlhf.errors import ConfigError
    from scale_rlhf.models.loading import offline_if_local

    with offline_if_local(path):
        try:
            return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"{path}: expected a tokenizer beside the model, and none could be read: {error}") from error
