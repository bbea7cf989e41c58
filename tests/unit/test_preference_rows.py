"""From preferences and judgements to the rows that TRL's trainers read."""

import pytest

from scale_rlhf.stages import dpo
from tests.tiny import tiny_tokenizer

TURNS = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"},
         {"role": "user", "content": "Who is it?"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def test_an_answer_is_the_last_turn_with_its_end(tokenizer):
    row = dpo.pairs([{"messages": TURNS, "chosen": "Paris.", "rejected": ""}], tokenizer, 100)[0]
    assert tokenizer.decode(row["prompt_ids"]) == "<|user|>Hello<|assistant|>Yes?<|end|><|user|>Who is it?<|assistant|>"
    assert tokenizer.decode(row["chosen_ids"]) == "Paris.<|end|>"
    assert tokenizer.decode(row["rejected_ids"]) == "<|end|>"


def test_long_answers_are_cut_and_pairs_without_room_left_out(tokenizer):
    pair = {"messages": TURNS, "chosen": "a" * 50, "rejected": "No."}
    prompt, whole = dpo.prompt_and_answer(tokenizer, TURNS, pair["chosen"], 100_000)
    rows = dpo.pairs([pair], tokenizer, len(prompt) + 3)
    assert rows[0]["prompt_ids"] == prompt and rows[0]["chosen_ids"] == whole[:3]
    assert len(dpo.pairs([pair], tokenizer, len(prompt))) == 0


def test_a_mismatched_answer_is_that_of_another_prompt(tokenizer):
    rows = [{"messages": [{"role": "user", "content": f"question {place}"}], "response": f"answer {place} {good}", "good": good}
            for place in range(3) for good in (True, False)]
    made = dpo.judged(rows, tokenizer, 200)
    assert made["label"][:] == [True, False] * 3
    for row, judged in zip(rows, made, strict=True):
        place = row["response"].split()[1]
        assert tokenizer.decode(judged["completion_ids"]) == row["response"] + "<|end|>"
        assert f"answer {place}" not in tokenizer.decode(judged["KL_completion_ids"])
    assert sorted(made["KL_completion_ids"][:]) == sorted(made["completion_ids"][:])
