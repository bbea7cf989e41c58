import pytest

from scale_rlhf.config.schema import ModelSection
from scale_rlhf.data.chat import ASSISTANT, END, PAD, USER, check_tokenizer, dialogue_ids, load_tokenizer, prompt_ids
from scale_rlhf.errors import ConfigError
from tests.tiny import tiny_tokenizer

DIALOGUE = [{"role": "user", "content": "What is the capital of France?"}, {"role": "assistant", "content": "Paris."}]
# As Qwen writes it: no generation markers, a line break after each end token.
PLAIN = (
    "{% for m in messages %}<|user|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def tokenizer(folder):
    return load_tokenizer(str(folder), ModelSection())


def said(tokenizer, messages):
    ids, mask = dialogue_ids(tokenizer, messages)
    assert len(ids) == len(mask)
    return tokenizer.decode([token for token, inside in zip(ids, mask, strict=True) if inside])


def test_a_prompt_ends_where_the_assistant_begins(tokenizer):
    assert tokenizer.decode(prompt_ids(tokenizer, "Hello")) == f"{USER}Hello{ASSISTANT}"
    assert prompt_ids(tokenizer, DIALOGUE[:1]) == prompt_ids(tokenizer, DIALOGUE[0]["content"])


def test_generation_continues_the_prompt(tokenizer):
    ids, mask = dialogue_ids(tokenizer, DIALOGUE)
    prompt = prompt_ids(tokenizer, DIALOGUE[:1])
    assert ids[: len(prompt)] == prompt and not any(mask[: len(prompt)]) and all(mask[len(prompt) :])
    assert ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("template", [None, PLAIN])
def test_the_assistant_said_its_answers_and_their_ends(tokenizer, template):
    tokenizer.chat_template = template or tokenizer.chat_template
    assert said(tokenizer, DIALOGUE) == f"Paris.{END}"
    more = [*DIALOGUE, {"role": "user", "content": "And of Bolivia?"}, {"role": "assistant", "content": "La Paz."}]
    assert said(tokenizer, more) == f"Paris.{END}La Paz.{END}"


def test_nothing_follows_the_last_end(tokenizer):
    tokenizer.chat_template = PLAIN
    ids, mask = dialogue_ids(tokenizer, DIALOGUE)
    assert ids[-1] == tokenizer.eos_token_id and mask[-1]


def test_an_end_token_outside_the_markers_is_learned_all_the_same(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>{% endgeneration %}", "{% endgeneration %}<|end|>")
    assert said(tokenizer, DIALOGUE) == f"Paris.{END}"


def test_no_template_is_an_error(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="model.chat_template"):
        check_tokenizer(tokenizer, "models/some")


def test_no_end_in_the_template_is_an_error(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    with pytest.raises(ConfigError, match="models/some.*end token"):
        check_tokenizer(tokenizer, "models/some")


def test_a_template_that_fails_is_an_error(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(ConfigError, match="cannot render"):
        check_tokenizer(tokenizer, "models/some")


def test_padding_is_another_token_than_the_end(tokenizer):
    tokenizer.pad_token = tokenizer.eos_token
    assert check_tokenizer(tokenizer, "x").pad_token == PAD
    size = len(tokenizer)
    tokenizer.pad_token = None
    assert check_tokenizer(tokenizer, "x").pad_token == PAD and len(tokenizer) == size


def test_the_end_token_is_the_one_that_the_template_uses(tokenizer):
    tokenizer.eos_token = PAD  # as Qwen's base models have <|endoftext|> for both
    check_tokenizer(tokenizer, "x")
    assert tokenizer.eos_token == END and tokenizer.pad_token == PAD


def test_no_token_to_pad_with_is_an_error(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "</s>": 2}, unk_token="a"))
    bare = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    bare.chat_template = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    with pytest.raises(ConfigError, match="no padding token"):
        check_tokenizer(bare, "models/bare")


def test_a_template_of_ones_own(folder, tmp_path):
    (tmp_path / "own.jinja").write_text(PLAIN)
    own = load_tokenizer(str(folder), ModelSection(chat_template=str(tmp_path / "own.jinja")))
    assert own.chat_template == PLAIN
    with pytest.raises(ConfigError, match="model.chat_template"):
        load_tokenizer(str(folder), ModelSection(chat_template=str(tmp_path / "absent.jinja")))


def test_no_tokenizer_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no tokenizer"):
        load_tokenizer(str(tmp_path), ModelSection())
