"""What is checked of a whole configuration before anything starts, each message with the key and what to do."""
# ruff: noqa: E501 - a case and its message stay on one line

import json
from pathlib import Path

import pytest

from scale_rlhf.config import checks, model_checks, model_files, resources
from scale_rlhf.config.checks import check, stages_of
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError

ROOMY = {"cpus": 8}


def mistakes(stages=None, earlier=(), **sections) -> str:
    with pytest.raises(ConfigError) as caught:
        check(RunConfig(**{"data": {"practice": {}}, "cluster": ROOMY, **sections}), stages, earlier=earlier)
    return str(caught.value)


def passes(stages=None, earlier=(), **sections) -> list[str]:
    return check(RunConfig(**{"data": {"practice": {}}, "cluster": ROOMY, **sections}), stages, earlier=earlier)


def make_model(folder: Path, *, template=True, end="<|end|>", vocabulary=("a", "b"), **config) -> str:
    """The small files of a model folder, without weights."""
    folder.mkdir()
    shape = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "num_hidden_layers": 2,
             "max_position_embeddings": 256, "vocab_size": len(vocabulary)}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in (shape | config).items() if value is not None}))
    tokenizer = ({"chat_template": "{{ messages }}"} if template else {}) | ({"eos_token": end} if end else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    words = {"model": {"vocab": {word: number for number, word in enumerate(vocabulary)}}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(words))
    return str(folder)


PAIRS = {"responses_per_prompt": 2}


def test_the_defaults_pass():
    assert passes() == []


@pytest.mark.parametrize(("sections", "expected"), [
    ({"reward": {"model": "m/o/d", "url": "http://x"}}, "reward: expected exactly one of model, function and url; found reward.model and reward.url"),
    ({"reward": {"url": "ftp://x"}, "value": {"initial": "policy"}}, "reward.url: expected an address that begins with http:// or https://"),
    ({"reward": {"url": "http://x/"}}, "value.initial: the value model cannot start from the reward model"),
    ({"reward": {"function": "nothing"}}, "reward.function: expected an import path package.module:name; found nothing"),
    ({"reward": {"function": "no_such_module:f"}}, "reward.function: there is no Python module no_such_module"),
    ({"rollout": {"top_p": 0.9}}, "rollout.top_p: must be 1 in RL; found 0.9"),
    ({"rollout": {"top_k": 5}}, "rollout.top_k: must be 0 (off) in RL; found 5"),
    ({"rollout": {"tensor_parallel": 3}}, "rollout.tensor_parallel: must divide the model's 4 attention heads; found 3"),
    ({"model": {"scratch": {"head_dim": 48}}}, "model.scratch.head_dim: head size 48, and vLLM's CPU backend has 32, 64, 80"),
    ({"model": {"scratch": {"heads": 4, "key_value_heads": 3}}}, "model.scratch.key_value_heads: must divide model.scratch.heads (4); found 3"),
    ({"model": {"chat_template": "nothing.jinja"}}, "model.chat_template: expected a file with a Jinja template, found nothing at nothing.jinja"),
    ({"model": {"path": "nowhere/at/all"}}, "model.path: model folder nowhere/at/all does not exist"),
    ({"model": {"attention": "flash_attention_2"}}, "model.attention: flash_attention_2 needs a GPU, and policy.gpus is 0"),
    ({"data": {"practice": {}, "max_prompt_tokens": 250}}, "data.max_prompt_tokens + rollout.max_response_tokens: 250 + 64 = 314 tokens, more than model.scratch.context (256)"),
    ({"sft": {"max_tokens": 257}}, "sft.max_tokens: 257, more than model.scratch.context (256)"),
    ({"policy": {"autocast": True}}, "policy.autocast: needs policy.dtype: bfloat16; found float32"),
    ({"value": {"zero_stage": 0, "offload_optimizer": True}}, "value.offload_optimizer: needs value.zero_stage 1, 2 or 3; found 0"),
    ({"sft": {"offload_parameters": True}}, "sft.offload_parameters: needs sft.zero_stage 3; found 2"),
    ({"policy": {"betas": [0.9, 1.0]}}, "policy.betas: expected two numbers of at least 0 and less than 1"),
    ({"overlap": {"max_staleness": 1, "anchor": "proximal"}},
     "overlap.correction: anchor: proximal with max_staleness: 1 needs a weight"),
    ({"overlap": {"recompute_cache": False, "anchor": "proximal"}},
     "overlap.correction: anchor: proximal with recompute_cache: false needs a weight"),
    ({"overlap": {"correction": "truncated"}}, "overlap.correction: truncated needs overlap.anchor: proximal"),
    ({"overlap": {"correction_band": (2.0, 0.5)}}, "overlap.correction_band: expected two numbers, the smaller first"),
    ({"ppo": {"advantages": "group_relative"}}, "ppo.responses_per_prompt: ppo.advantages: group_relative compares"),
    ({"ppo": {"advantages": "leave_one_out"}}, "ppo.responses_per_prompt: ppo.advantages: leave_one_out compares the responses to one prompt"),
    ({"ppo": {"advantages": "reinforce_plus_plus_baseline"}}, "ppo.responses_per_prompt: ppo.advantages: reinforce_plus_plus_baseline compares"),
    ({"ppo": PAIRS | {"dynamic_sampling": True}}, "ppo.dynamic_sampling: a prompt whose responses score alike says nothing only where"),
    ({"ppo": {"kl_in": "loss"}}, "ppo.kl_estimator: k1 in the loss has no gradient but noise"),
    ({"ppo": {"advantages": "remax"}, "rollout": {"temperature": 0.7}}, "rollout.temperature: must be 1 with ppo.advantages: remax and the KL penalty in the reward; found 0.7"),
    ({"ppo": {"steps": 5, "value_pretraining": 5}}, "ppo.value_pretraining: of ppo.steps (5) at least one must train the policy; found 5"),
    ({"run": {"stages": ["base", "sft", "dpo"]}, "dpo": {"loss": "kto", "microbatch": 1}},
     "dpo.microbatch: TRL's KTO needs at least 2 samples in a forward; found dpo.microbatch 1"),
    ({"run": {"stages": ["base", "sft", "best_of_n"]}}, "reward: there is no reward: stage reward is not among the stages"),
    ({"run": {"stages": ["base", "sft", "reward", "best_of_n"]}, "rollout": {"ignore_end": True}},
     "rollout.ignore_end: best_of_n learns answers that have ended by themselves"),
    ({"run": {"stages": ["dpo"]}}, "dpo.model: there is no model to start from: model.path is null and stage base is not among"),
    ({"data": {"practice": {}, "mixture": [{"path": "a/b"}], "instructions": "a/b"}},
     "data.mixture: it stands instead of data.instructions; give one of them"),
    ({"data": {"practice": {}, "mixture": [{"path": "no/such.jsonl", "weight": 2}]}},
     "data.mixture.0: file no/such.jsonl does not exist"),
    ({"ppo": {"kl_target": 6.0, "kl_coefficient": 0}}, "ppo.kl_coefficient: 0 stays 0 under an adaptive coefficient"),
    ({"rollout": {"kv_cache_gb": 1e-5}}, "rollout.kv_cache_gb: one sequence of"),
    ({"cluster": {"cpus": 8, "object_store_gb": 0.01}}, "cluster.object_store_gb: expected at least 0.08; found 0.01"),
    ({"run": {"stages": ["ppo", "sft"]}}, "run.stages: expected stages once each in the order base, sft, reward, best_of_n, dpo, ppo, evaluate; found ppo, sft"),
    ({"run": {"stages": ["sft"]}}, "sft.model: there is no model to start from: model.path is null and stage base is not among the stages"),
    ({"data": {}}, "data.instructions: stage sft needs it; give a file or hub name (or data.preferences"),
    ({"data": {"preferences": "no/such/file.jsonl"}}, "data.preferences: file no/such/file.jsonl does not exist"),
    ({"data": {"preferences": "a/b", "hold_out": 0}}, "data.hold_out: 0 leaves nothing to evaluate on"),
])
def test_a_contradiction_is_told_with_its_key(sections, expected):
    assert expected in mistakes(**sections)


FUNCTION = {"function": "json:loads"}
SERVICE = {"url": "http://x/"}


@pytest.mark.parametrize(("sections", "expected"), [
    ({"reward": FUNCTION | {"tokens_per_batch": 99}}, "reward.tokens_per_batch: a reward.function runs in reward.replicas processes and holds no model; found 99. Leave it out (it is then 2048)"),
    ({"reward": FUNCTION | {"max_wait_ms": 1}}, "reward.max_wait_ms: a reward.function"),
    ({"reward": FUNCTION | {"dtype": "bfloat16"}}, "reward.dtype: a reward.function runs in reward.replicas processes and holds no model; found bfloat16"),
    ({"reward": FUNCTION | {"workers": 2}}, "reward.workers: a reward.function"),
    ({"reward": SERVICE | {"tokens_per_batch": 99}}, "reward.tokens_per_batch: reward.url is a service"),
    ({"reward": SERVICE | {"max_wait_ms": 1}}, "reward.max_wait_ms: reward.url is a service"),
    ({"reward": SERVICE | {"dtype": "bfloat16"}}, "reward.dtype: reward.url is a service"),
    ({"reward": SERVICE | {"workers": 2}}, "reward.workers: reward.url is a service"),
    ({"reward": SERVICE | {"gpus": 1}}, "reward.gpus: reward.url is a service"),
    ({"reward": {"retries": 1}}, "reward.retries: it is for a reward.function or reward.url; a model has limits.score_seconds; found 1"),
    ({"reward": {"retry_seconds": 1}}, "reward.retry_seconds: it is for a reward.function or reward.url"),
    ({"reward": SERVICE | {"retries": 0, "retry_seconds": 1}}, "reward.retry_seconds: with reward.retries: 0 nothing is tried again"),
    ({"reward": {"timeout_seconds": 5}}, "reward.timeout_seconds: it is for a reward.function or reward.url; a model has limits.score_seconds"),
    ({"overlap": {"correction_cap": 3.0}}, "overlap.correction_cap: overlap.correction: none has no cap; found 3.0"),
    ({"overlap": {"anchor": "proximal", "correction": "truncated", "correction_band": (0.5, 3.0)}},
     "overlap.correction_band: overlap.correction: truncated has no band"),
    ({"overlap": {"weight_update": "drain", "recompute_cache": False}},
     "overlap.recompute_cache: with weight_update: drain no sample goes on over an update; found false"),
    ({"ppo": {"scale_by_std": False}}, "ppo.scale_by_std: it is for ppo.advantages: group_relative; found false"),
    ({"ppo": PAIRS | {"advantages": "leave_one_out", "gamma": 0.9}}, "ppo.gamma: it is for ppo.advantages: gae or reinforce_plus_plus; found 0.9"),
    ({"ppo": PAIRS | {"advantages": "leave_one_out", "whiten_advantages": False}}, "ppo.whiten_advantages: ppo.advantages: leave_one_out are never whitened"),
    ({"ppo": {"advantages": "remax", "value_pretraining": 3}}, "ppo.value_pretraining: it is for ppo.advantages: gae; found 3"),
    ({"ppo": {"loss": "gspo", "dual_clip": 3.0}}, "ppo.dual_clip: it is for ppo.loss: ppo; found 3.0"),
    ({"ppo": {"kl_coefficient": 0, "kl_in": "loss"}}, "ppo.kl_in: ppo.kl_coefficient: 0 is no penalty; found loss"),
    ({"ppo": {"kl_coefficient": 0, "kl_estimator": "k3"}}, "ppo.kl_estimator: ppo.kl_coefficient: 0 is no penalty; found k3"),
    ({"limits": {"silent_groups": 9}}, "limits.silent_groups: it is for ppo.dynamic_sampling; found 9"),
    ({"ppo": {"advantages": "group_relative", "responses_per_prompt": 2, "lam": 0.9}},
     "ppo.lam: it is for ppo.advantages: gae; found 0.9"),
    ({"dpo": {"label_smoothing": 0.2}}, "dpo.label_smoothing: it is for dpo.loss: cdpo, and dpo.loss is dpo; found 0.2"),
    ({"dpo": {"loss": "cdpo", "bad_weight": 2.0}}, "dpo.bad_weight: it is for dpo.loss: kto, and dpo.loss is cdpo; found 2.0"),
    ({"ppo": {"kl_horizon": 500}}, "ppo.kl_horizon: the KL coefficient is fixed, as ppo.kl_target is null; found 500"),
    ({"rollout": {"ignore_end": True, "stop": ["x"]}}, "rollout.stop: with rollout.ignore_end nothing ends a response early"),
    ({"rollout": {"ignore_end": True, "stop_token_ids": [7]}}, "rollout.stop_token_ids: with rollout.ignore_end"),
    ({"value": {"model": "a/b", "initial": "policy"}}, "value.initial: the value model starts from value.model; found policy. Leave it out (it is then reward)"),
    ({"cluster": {"address": "auto", "dashboard": False}}, "cluster.dashboard: it is of a cluster that a run starts, and cluster.address joins one; found false"),
    ({"cluster": {"address": "auto", "cpus": 8}}, "cluster.cpus: it is of a cluster that a run starts"),
    ({"data": {"preferences": {"path": __file__, "split": "test"}}}, f"data.preferences.split: it is for hub names, and {__file__} is a file; found test"),
])
def test_a_key_that_nothing_would_read_is_refused(sections, expected, monkeypatch):
    monkeypatch.setattr(model_files, "hub_reachable", lambda: False)
    assert expected in mistakes(**({"value": {"initial": "policy"}} | sections))


def test_best_of_n_asks_for_every_source_of_its_reward():
    mix = {"right": {"function": "scale_rlhf.reward.verifiable:final_answer", "replicas": 2}, "liked": {"url": "http://localhost:1"},
           "short": {"model": "a/b", "replicas": 2, "workers": 3}}
    config = RunConfig.model_validate({"reward": {"mix": mix}})
    asked = [(ask.role, ask.processes) for ask in resources.asks(config, "best_of_n")]
    assert asked == [("rollout", 1), ("reward.mix.right", 2), ("reward.mix.liked", 0), ("reward.mix.short", 6)]


def test_best_of_n_must_fit_while_it_answers_and_while_it_trains():
    config = RunConfig(best_of_n={"workers": 9}, rollout={"engines": 2})
    for cpus, asked in ((8, ["best_of_n 9 ×"]), (2, ["rollout 2 ×", "best_of_n 9 ×"]), (9, [])):
        said = list(resources.shortages(config, ["best_of_n"], cpus, 0, "this machine"))
        assert len(said) == len(asked) and all(one in text for one, text in zip(asked, said, strict=True))


def test_keys_that_are_read_are_not_refused():
    outside = {"value": {"initial": "policy"}}
    assert passes(reward=FUNCTION | {"replicas": 2, "cpus": 0.5, "timeout_seconds": 5, "retries": 1, "retry_seconds": 2}, **outside) == []
    assert passes(reward=SERVICE | {"replicas": 4, "timeout_seconds": 5, "retries": 0}, **outside) == []
    assert passes(reward={"workers": 2, "dtype": "bfloat16", "tokens_per_batch": 99}, ppo={"kl_target": 1, "kl_horizon": 500}) == []


def test_a_resolved_configuration_that_names_every_key_passes(tmp_path):
    """What stands in a run's folder, and is read again to resume it."""
    from scale_rlhf.config.load import dump, load_config

    config = RunConfig(data={"practice": {}}, cluster=ROOMY, reward=FUNCTION, value={"initial": "policy"})
    (tmp_path / "config.yaml").write_text(dump(config))
    assert check(load_config(tmp_path / "config.yaml")) == []


def test_without_a_critic_there_is_no_value_model_to_be_checked():
    """Neither where it starts from nor what it asks for; what is set of it is noted."""
    assert passes(ppo=PAIRS | {"advantages": "leave_one_out"}, reward=FUNCTION, cluster={"cpus": 4}) == []
    said = passes(ppo={"advantages": "remax"}, reward=FUNCTION, value={"workers": 3}, cluster={"cpus": 4})
    assert said == ["value.workers: not used: ppo.advantages: remax has no value model; found 3. Leave it out (it is then 1)"]


@pytest.mark.parametrize("ppo", [
    {"advantages": "group_relative", "dynamic_sampling": True, "kl_coefficient": 0, "clip_high": 0.28, "dual_clip": 3.0},
    {"advantages": "group_relative", "kl_in": "loss", "kl_estimator": "k3", "aggregation": "sequence_mean"},
    {"advantages": "group_relative", "scale_by_std": False, "aggregation": "constant"},
    {"advantages": "reinforce_plus_plus", "kl_estimator": "k3", "gamma": 0.99},
    {"loss": "gspo", "aggregation": "sequence_mean", "clip_low": 3e-4, "clip_high": 4e-4, "advantages": "leave_one_out"},
    {"loss": "cispo", "value_pretraining": 2, "kl_target": 3.0, "kl_in": "loss", "kl_estimator": "k2"},
])
@pytest.mark.parametrize("overlap", [{}, {"max_staleness": 4}, {"max_staleness": 2, "anchor": "proximal", "correction": "truncated"}])
def test_methods_go_together_at_any_staleness(ppo, overlap):
    assert passes(ppo=PAIRS | ppo, overlap=overlap) == []


def test_what_another_device_or_schedule_reads_is_noted(monkeypatch):
    assert passes(rollout={"gpu_memory_utilization": 0.5}) == ["rollout.gpu_memory_utilization: not used without rollout.gpus; found 0.5. Leave it out (it is then 0.85)"]
    assert passes(reference={"max_wait_ms": 1})[0].startswith("reference.max_wait_ms: not used at overlap.max_staleness 0")
    monkeypatch.setattr(resources, "machine_gpus", lambda: 1)
    assert passes(rollout={"kv_cache_gb": 2, "gpus": 1})[0].startswith("rollout.kv_cache_gb: not used on GPUs")


def test_what_only_one_stage_cannot_take_is_no_mistake_without_it():
    assert passes(["base", "sft"], rollout={"top_p": 0.9}, model={"scratch": {"head_dim": 48}}) == []


def test_any_batch_size_goes_with_any_number_of_workers():
    assert passes(policy={"workers": 3, "cpus": 0.5}, sft={"workers": 3, "batch_size": 7, "microbatch": 5},
                  ppo={"prompts_per_step": 7, "minibatches": 4}) == []


def test_ppo_alone_needs_a_reward_and_a_policy_unless_earlier_stages_made_them():
    said = mistakes(["ppo"])
    assert "reward: there is no reward" in said and "policy.model: there is no model to start from" in said
    assert passes(["ppo"], earlier=["base", "sft", "reward"]) == []


def test_base_is_left_out_where_a_base_model_is_named():
    assert stages_of(RunConfig(model={"path": "a/b"})) == ["sft", "reward", "ppo", "evaluate"]


def test_more_cpus_than_there_are_names_every_role_and_what_there_is():
    said = mistakes(cluster={"cpus": 2})
    assert "stage ppo asks for 5 CPUs and 0 GPUs, and this machine's cluster has 2 and 0" in said
    assert "policy 1 × (1 CPUs, 0 GPUs)" in said and "set cluster.cpus=5" in said
    assert passes(cluster={"cpus": 2}, **{role: {"cpus": 0.4} for role in ("rollout", "reward", "reference", "policy", "value")}) == []


def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setattr(resources, "machine_gpus", lambda: 1)
    said = mistakes(policy={"gpus": 1}, value={"gpus": 0.5})
    assert "stage ppo asks for 5 CPUs and 1.5 GPUs, and this machine's cluster has 8 and 1" in said
    assert passes(policy={"gpus": 0.5}, value={"gpus": 0.5}) == []


def test_a_login_node_is_told_that_the_run_does_not_fit_here():
    notes = check(RunConfig(data={"practice": {}}, cluster={"cpus": 1}), starts=False)
    assert len(notes) == 1 and notes[0].startswith("cannot run here: stage ppo asks for 5 CPUs")


def test_asks_count_every_process_of_a_role():
    config = RunConfig(rollout={"engines": 2, "tensor_parallel": 2}, reference={"replicas": 2, "workers": 3}, reward={"url": "http://x"})
    found = {ask.role: ask.processes for ask in resources.asks(config, "ppo")}
    assert found == {"rollout": 2, "reward": 0, "reference": 6, "policy": 1, "value": 1}
    assert resources.asks(config, "ppo")[0].cpus == 2 * config.rollout.cpus  # of both ranks of an engine


def test_a_model_without_a_chat_template_or_an_end_token(tmp_path):
    model = make_model(tmp_path / "m", template=False, end=None)
    said = mistakes(model={"path": model})
    assert f"model.path: the tokenizer of {model} has no chat template" in said and "give a file with one as model.chat_template" in said
    assert f"model.path: the tokenizer of {model} has no end token" in said
    template = tmp_path / "t.jinja"
    template.write_text("{{ messages }}")
    assert "no chat template" not in mistakes(model={"path": model, "chat_template": str(template)})


def test_an_end_token_may_be_an_object_or_stand_in_special_tokens_map(tmp_path):
    model = make_model(tmp_path / "m", end=None)
    (tmp_path / "m" / "special_tokens_map.json").write_text('{"eos_token": {"content": "</s>"}}')
    assert passes(model={"path": model}) == []


def test_head_size_heads_and_context_of_a_local_model(tmp_path):
    model = make_model(tmp_path / "m", head_dim=40, max_position_embeddings=100)
    said = mistakes(model={"path": model}, rollout={"tensor_parallel": 8})
    assert f"model.path: {model}: head size 40, and vLLM's CPU backend has" in said
    assert "rollout.tensor_parallel: must divide the model's 4 attention heads; found 8" in said
    assert f"128 + 64 = 192 tokens, more than the context of {model} (100)" in said


GPT2 = dict.fromkeys(("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "num_hidden_layers",
                      "max_position_embeddings")) | {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
DISTIL = GPT2 | {"n_embd": 768, "n_head": 12, "n_layer": 6, "n_positions": 1024, "n_inner": None}


def test_gpt2_has_names_of_its_own_for_the_same_sizes(tmp_path):
    assert passes(model={"path": make_model(tmp_path / "distil", **DISTIL)}) == []
    odd = make_model(tmp_path / "odd", **DISTIL | {"n_head": 16, "n_positions": 100})
    said = mistakes(model={"path": odd}, rollout={"tensor_parallel": 3})
    assert f"model.path: {odd}: head size 48, and vLLM's CPU backend has" in said
    assert f"128 + 64 = 192 tokens, more than the context of {odd} (100)" in said
    assert "rollout.tensor_parallel: must divide the model's 16 attention heads; found 3" in said
    said = mistakes(model={"path": make_model(tmp_path / "again", **DISTIL)}, rollout={"verify_weights": True})
    assert "rollout.verify_weights: " in said and "keeps queries, keys and values in one matrix" in said


@pytest.mark.parametrize("kind", ["BertModel", "T5EncoderModel", "Qwen3ForSequenceClassification"])
def test_a_policy_that_cannot_answer_is_refused(tmp_path, kind):
    model = make_model(tmp_path / "m", architectures=[kind])
    assert f"model.path: {model} is of the kind {kind}; expected a causal language model" in mistakes(model={"path": model})


def test_capped_attention_scores_need_another_kernel(tmp_path):
    model = make_model(tmp_path / "gemma", attn_logit_softcapping=50.0, architectures=["Gemma2ForCausalLM"])
    said = mistakes(model={"path": model})
    assert f"model.attention: {model} (model.path) caps its attention scores" in said and "set model.attention=eager" in said
    assert passes(model={"path": model, "attention": "eager"}) == []


def test_a_reward_of_other_tokens_is_no_start_of_a_value_model(tmp_path):
    policy, reward = make_model(tmp_path / "p"), make_model(tmp_path / "r", vocabulary=("a", "c"), template=False)
    sections = {"model": {"path": policy}, "reward": {"model": reward}}
    said = mistakes(**sections)
    assert f"reward.model: {reward} and {policy} (model.path) have different vocabularies" in said
    assert "Set value.initial=policy" in said
    assert passes(value={"initial": "policy"}, **sections) == []


@pytest.mark.parametrize("size", model_checks.CPU_HEAD_SIZES)
def test_each_head_size_that_the_cpu_backend_has_passes(size):
    assert passes(model={"scratch": {"head_dim": size}}) == []


def test_policy_and_reference_of_different_vocabularies(tmp_path):
    policy, reference = make_model(tmp_path / "p"), make_model(tmp_path / "r", vocabulary=("a", "c"))
    said = mistakes(model={"path": policy}, reference={"model": reference})
    assert f"reference.model: {reference} and {policy} (model.path) have different vocabularies: 2 and 2 tokens; 'b' is absent and 1" in said
    assert passes(model={"path": policy}, reference={"model": make_model(tmp_path / "same")}) == []


def test_a_model_that_brings_code_needs_a_word(tmp_path):
    model = make_model(tmp_path / "m", auto_map={"AutoModel": "x.Y"})
    assert "brings Python code of its own; set model.trust_remote_code=true" in mistakes(model={"path": model})
    assert passes(model={"path": model, "trust_remote_code": True}) == []


def test_a_model_folder_with_a_broken_or_no_config(tmp_path):
    model = make_model(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text("{")
    assert f"model.path: {model}/config.json: malformed JSON" in mistakes(model={"path": model})
    (tmp_path / "m" / "config.json").unlink()
    assert f"model.path: {model} has no config.json" in mistakes(model={"path": model})


def test_a_misspelt_model_folder_names_the_nearest(tmp_path):
    make_model(tmp_path / "assistant")
    assert f"did you mean {tmp_path}/assistant?" in mistakes(model={"path": f"{tmp_path}/asistant"})


def test_a_hub_model_is_not_judged_where_the_hub_cannot_be_reached(monkeypatch):
    monkeypatch.setattr(model_files, "hub_reachable", lambda: False)
    notes = passes(model={"path": "nobody-here/no-such-model"})
    assert len(notes) == 1 and notes[0].startswith("not made: the hub cannot be reached: head size") and "nobody-here/no-such-model" in notes[0]


def test_checks_are_told_together():
    assert len(mistakes(rollout={"top_p": 0.5, "top_k": 2}, policy={"autocast": True}).splitlines()) == 3


def test_a_function_beside_the_configuration_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_reward_module.py").write_text("def f(samples): return [0.0] * len(samples)\n")
    monkeypatch.chdir(tmp_path)
    assert passes(reward={"function": "my_reward_module:f"}, value={"initial": "policy"}) == []
    assert checks._top_module("json")
