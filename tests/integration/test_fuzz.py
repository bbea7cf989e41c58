"""Whatever stands in a file of data or in a configuration, its reader gives rows or a run, or an error of ours that says where.

Each test has a few hundred examples, the same every time, and under `long` many more that differ from run to run.
"""
# ruff: noqa: E501 - a list of odd values stays on a few lines

import csv
import gzip
import io
import json
import math
import re
from itertools import count
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console

from scale_rlhf.config.checks import check
from scale_rlhf.config.load import dump, key_paths, load_config, section_type
from scale_rlhf.config.schema import DataSource, RunConfig
from scale_rlhf.data import convert, read, report
from scale_rlhf.data.forms import judged_response, mean_ratings, ranked_responses, rated_responses
from scale_rlhf.data.kinds import KINDS, said
from scale_rlhf.data.rows import each_row, read_rows
from scale_rlhf.data.sources import sources
from scale_rlhf.data.survey import Survey
from scale_rlhf.errors import ConfigError, DataError, UserError

effort = pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.long)], ids=["quick", "many"])
LONGEST_MESSAGE = 20_000  # characters
_names = count()


@pytest.fixture
def fresh(tmp_path):
    """A new name at each call: what one example left does not reach the next."""
    return lambda ending="": tmp_path / f"f{next(_names)}{ending}"


def fuzz(function, examples: int, times: int, *strategies) -> None:
    """`function` of so many examples; where `times` is 1 the same ones always, and a failure is shown as it is found."""
    phases = [Phase.generate] if times == 1 else [Phase.generate, Phase.shrink]
    limits = settings(max_examples=examples * times, derandomize=times == 1, deadline=None, database=None, phases=phases,
                      suppress_health_check=list(HealthCheck))

    @limits
    @given(st.tuples(*strategies))
    def examples_of(values):
        function(*values)

    examples_of()


def outcome(read_it, kind: type[UserError] = UserError):
    """What `read_it` gives, or the message of an error of ours, which a terminal and a file can take."""
    try:
        return read_it(), None
    except kind as error:
        said = str(error)
        assert said.strip() and len(said) < LONGEST_MESSAGE
        assert said.encode() and not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e]", said), repr(said)
        return None, said


# --- values -------------------------------------------------------------------------------------------------------------

ODD_TEXT = st.sampled_from([
    "", " ", "\n", "\r\n", "\x00", "\ufeff", "\u2028", "\x1b[31m", "Human: a", "\n\nHuman: a\n\nAssistant: b", "\n\nHuman:", " Human: a",
    "\n\nAssistant: a", "[", "[1", "{}", "nan", "1e999", "🙂", "x" * 300, '"', "'", "a,b", "null", "../../x", "http://u:p@h/",
])
TEXT = st.text(max_size=8) | ODD_TEXT | st.just("\ud800") | st.text(st.characters(categories=["Cs"]), min_size=1, max_size=2)
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**20), 2**63, math.nan, math.inf, -math.inf, 1e308, -0.0])
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT
NONSENSE = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=5)

ROLES = st.sampled_from(["system", "user", "assistant"]) | SCALARS
MESSAGES = st.lists(st.fixed_dictionaries({}, optional={"role": ROLES, "content": TEXT | NONSENSE}) | NONSENSE, max_size=4)
TURNS = st.lists(st.builds(lambda role, content: {"role": role, "content": content}, st.sampled_from(["user", "assistant"]), TEXT), max_size=3)
SAID = TEXT | TURNS | MESSAGES | NONSENSE
RATINGS = st.lists(NUMBERS | st.lists(NUMBERS, max_size=3) | NONSENSE, max_size=4) | st.lists(st.integers(0, 5), max_size=4) | NONSENSE
RESPONSES = st.lists(TEXT, max_size=4) | NONSENSE
VERDICTS = st.booleans() | st.sampled_from(["true", "False"]) | NONSENSE
FORMS = {
    "instructions": {"prompt": SAID, "response": SAID},
    "messages": {"messages": TURNS | MESSAGES | NONSENSE},
    "pairs": {"chosen": SAID, "rejected": SAID, "prompt": SAID, "messages": MESSAGES},
    "ratings": {"prompt": SAID, "responses": RESPONSES, "ratings": RATINGS},
    "aspects": {"prompt": SAID, "responses": RESPONSES, "ratings": st.dictionaries(TEXT | st.just("helpful"), RATINGS | st.none(), max_size=3)},
    "rankings": {"prompt": SAID, "responses": RESPONSES, "ranks": st.lists(st.integers(0, 4), max_size=4) | NONSENSE, "ranking": st.just("best-to-worst") | NONSENSE},
    "judgements": {"prompt": SAID, "response": SAID, "completion": SAID, "good": VERDICTS, "label": VERDICTS},
    "prompts": {"prompt": SAID, "row": NONSENSE, "text": SAID},
}
ROWS = st.one_of(*(st.fixed_dictionaries({}, optional=form) for form in FORMS.values())) | st.dictionaries(TEXT, NONSENSE, max_size=2)
GOOD = {"prompt": "Hi", "response": "Hello", "chosen": "Hello", "rejected": "No", "text": "Hi", "ratings": [1, [2, 3]], "responses": ["a", "b"]}
READERS = {"prompts": read.prompts, "instructions": read.instructions, "preferences": read.preferences, "base_text": read.base_text}
SOURCES = st.builds(
    lambda columns, limit: {"columns": columns, "limit": limit},
    st.dictionaries(st.sampled_from(["prompt", "response"]), st.sampled_from(["prompt", "response", "chosen"]), max_size=2),
    st.none() | st.integers(1, 3),
)


# --- files --------------------------------------------------------------------------------------------------------------

def jsonl(rows: list) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def array(rows: list) -> bytes:
    return json.dumps(rows, indent=1).encode()


def sheet(rows: list) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(GOOD)
    writer.writerows([json.dumps(value) if isinstance(value, list) else value for value in row.values()] for row in rows)
    return file.getvalue().encode("utf-8", "surrogatepass")


def parquet(rows: list) -> bytes:
    import pyarrow
    import pyarrow.parquet

    try:
        file = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    except (pyarrow.ArrowException, UnicodeError, OverflowError, ValueError, TypeError):  # no Parquet holds such rows
        file = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([GOOD | {"ratings": None}]), file)
    return file.getvalue()


WRITERS = {".jsonl": jsonl, ".json": array, ".csv": sheet, ".parquet": parquet}
ENDINGS = [*WRITERS, ".jsonl.gz", ".json.gz", ".csv.gz"]
JUNK = st.sampled_from([
    b"\xef\xbb\xbf", b"\r\n", b"\r", b"\x00", b"\xff", b"\xed\xa0\x80", b'"', b"[", b"]", b"{", b"}", b",", b":", b"NaN", b"1e999", b"\\ud800",
    b"-", b"\n\n", b"1" * 5000, b"[" * 3000, b'{"a":' * 3000, b"\x1b]0;x\x07",
]) | st.binary(min_size=1, max_size=4)
DAMAGE = st.lists(st.tuples(st.sampled_from(["cut", "flip", "insert", "drop"]), st.floats(0, 1), JUNK), max_size=4)


def damaged(content: bytes, damage: list) -> bytes:
    for kind, where, junk in damage:
        place = int(where * len(content))
        if kind == "cut":
            content = content[:place]
        elif kind == "insert":
            content = content[:place] + junk + content[place:]
        elif kind == "drop":
            content = content[:place] + content[place + len(junk) :]
        else:
            content = content[:place] + bytes(byte ^ 0x55 for byte in content[place : place + 1]) + content[place + 1 :]
    return content


def says_where(said: str, path: Path) -> bool:
    """File and line; the file alone where the fault is of the whole of it."""
    if re.search(rf"{re.escape(path.name)}(:\d+|: row \d+)\b", said):
        return True
    whole = ("has no rows", "no two responses", "is judged bad", "not a Parquet file")
    return path.name in said and any(fault in said for fault in whole)


def read_whole(path: Path, reader: str, source: dict) -> None:
    def use():
        rows = READERS[reader](DataSource(path=str(path), **source))
        return [check_normal(reader, row) for row in rows]

    _, said = outcome(use, DataError)
    assert said is None or says_where(said, path), said


def check_normal(reader: str, row: dict) -> None:
    """What the stages rely on."""
    texts = [row[name] for name in ("text", "chosen", "rejected") if name in row and reader != "prompts"]
    if "messages" in row:
        assert [*row["messages"][0]] == ["role", "content"]
        assert row["messages"][-1]["role"] == ("assistant" if reader == "instructions" else "user")
        texts += [turn["content"] for turn in row["messages"]]
    assert all(text.encode() is not None for text in texts)
    if reader == "prompts":
        assert json.dumps(row, default=str)  # goes to reward services
    elif row.get("margin") is not None:
        assert math.isfinite(row["margin"]) and row["margin"] > 0


@effort
def test_rows_of_every_form(fresh, times):
    def one(rows, reader, source):
        path = fresh(".jsonl")
        path.write_bytes(jsonl(rows))
        read_whole(path, reader, source)

    fuzz(one, 300, times, st.lists(ROWS, min_size=1, max_size=2), st.sampled_from([*READERS]), SOURCES | st.just({}))


def of_one_row(reader, row):
    """A row's normal form, or an error that says where."""
    found, said_of_it = outcome(lambda: reader(row, "f.jsonl:7"), DataError)
    assert said_of_it is None or said_of_it.startswith("f.jsonl:7: "), said_of_it
    return found


@effort
def test_feedback_of_every_kind(times):
    def one(row):
        if rated := of_one_row(rated_responses, row):
            assert all(len(of_one) == len(rated["responses"]) for of_one in rated["ratings"].values())
            assert len(mean_ratings(rated)) == len(rated["responses"]) and all(map(math.isfinite, mean_ratings(rated)))
        if ranked := of_one_row(ranked_responses, row):
            assert len(ranked["ranks"]) == len(ranked["responses"]) > 1 and all(type(rank) is int and rank > 0 for rank in ranked["ranks"])
        if judged := of_one_row(judged_response, row):
            assert type(judged["good"]) is bool and judged["response"].encode() is not None
        if says := of_one_row(said, row):
            assert says.kind in KINDS and {text for pair in says.pairs for text in pair} <= set(says.responses)

    fuzz(one, 200, times, ROWS)


@effort
@pytest.mark.parametrize("ending", ENDINGS)
def test_surveys_of_any_rows(fresh, ending, times):
    """A survey names each bad line and goes on; what it found is JSON that a terminal can show."""
    kind = ending.removesuffix(".gz")

    def one(rows, damage):
        path, found = fresh(ending), Survey(keep=3)
        content = damaged(WRITERS[kind](rows), damage)
        path.write_bytes(gzip.compress(content, 1) if ending.endswith(".gz") else content)
        found.read(DataSource(path=str(path)))
        assert all(says_where(line, path) for line in found.bad.lines)
        counted = json.loads(json.dumps(report.as_dict(found)))
        assert sum(counted["kinds"].values()) + counted["bad"]["count"] >= sum(counted["rows"].values())
        shown = io.StringIO()
        report.print_findings(found, Console(file=shown))
        report.print_figures(found, Console(file=shown))
        assert shown.getvalue().encode() and "\x1b" not in shown.getvalue()

    fuzz(one, 15, times, st.lists(ROWS, min_size=1, max_size=4), st.just([]) | DAMAGE)


@effort
def test_lines_after_a_bad_one_are_read(fresh, times):
    def one(lines):
        path = fresh(".jsonl")
        path.write_bytes(b"{}\n" + b"".join(line.replace(b"\n", b" ") + b"\n" for line in lines) + b'{"text": "last"}\n')
        *_, (at, row) = each_row(DataSource(path=str(path)))
        assert row == {"text": "last"} and at == f"{path}:{len(lines) + 2}"

    fuzz(one, 40, times, st.lists(st.binary(max_size=12) | JUNK, max_size=4))


@effort
@pytest.mark.parametrize("form", convert.FORMS)
def test_public_forms_that_are_nearly_right(form, times):
    numbers = st.integers(-4, 8) | st.sampled_from(["1", "5", "N/A", ""]) | NUMBERS | NONSENSE
    raters = numbers | st.lists(numbers, max_size=2)
    rating = st.fixed_dictionaries({}, optional={"Rating": numbers}) | NONSENSE
    annotations = st.dictionaries(st.sampled_from(["helpfulness", "honesty"]) | TEXT, rating | st.lists(rating, max_size=2), max_size=2) | NONSENSE
    completion = st.fixed_dictionaries({}, optional={"response": SAID, "annotations": annotations}) | NONSENSE
    summary = st.fixed_dictionaries({}, optional={"text": TEXT, "axes": st.dictionaries(st.sampled_from(["overall", "accuracy"]), numbers) | NONSENSE}) | NONSENSE
    info = st.fixed_dictionaries({}, optional=dict.fromkeys(("post", "title", "subreddit", "article"), TEXT | NONSENSE)) | NONSENSE
    public = {
        "instruction": SAID, "completions": st.lists(completion, max_size=3) | NONSENSE, "prompt": SAID | st.just("a\n<extra_id_1>Assistant\nb\n<extra_id_1>User\nc"),
        "response": SAID, "helpfulness": raters, "correctness": raters, "context": MESSAGES, "preference_strength": numbers, "response_1": TEXT,
        "response_2": SAID, "info": info, "summaries": st.lists(summary, max_size=3) | NONSENSE, "summary": summary, "choice": numbers, **FORMS["pairs"],
    }

    def one(row):
        ours = of_one_row(convert.named(form).row, row)
        if ours is not None:
            of_one_row(said, ours)

    needed = {"hh-rlhf": [], "ultrafeedback": ["instruction", "completions"], "helpsteer": ["prompt"], "summarize-from-feedback": ["info"]}[form]
    fuzz(one, 60, times, st.fixed_dictionaries({name: public[name] for name in needed}, optional={name: given for name, given in public.items() if name not in needed}))


@effort
@pytest.mark.parametrize("ending", ENDINGS)
def test_files_that_are_nearly_right(fresh, ending, times):
    kind = ending.removesuffix(".gz")

    def one(rows, damage, packed_damage, reader, source):
        path = fresh(ending)
        content = damaged(WRITERS[kind](rows), damage)
        path.write_bytes(damaged(gzip.compress(content, 1), packed_damage) if ending.endswith(".gz") else content)
        read_whole(path, reader, source)

    rows = st.lists(st.just(GOOD) | ROWS.map(lambda row: GOOD | row), min_size=1, max_size=3)
    fuzz(one, 80, times, rows, DAMAGE, st.just([]) | DAMAGE, st.sampled_from([*READERS]), st.just({}) | SOURCES)


@effort
@pytest.mark.parametrize("ending", ENDINGS)
def test_files_of_anything(fresh, ending, times):
    def one(content):
        path = fresh(ending)
        path.write_bytes(content)
        _, said = outcome(lambda: list(read_rows(DataSource(path=str(path)))), DataError)
        assert said is None or says_where(said, path), said

    fuzz(one, 60, times, st.binary(max_size=60) | st.text(max_size=40).map(str.encode) | st.lists(JUNK, max_size=6).map(b"".join))


@effort
def test_names_of_files(tmp_path, monkeypatch, times):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scale_rlhf.config.model_files.hub_reachable", lambda: False)
    names = TEXT | st.sampled_from(["~nobody-of-that-name/a.jsonl", "a" * 5000 + ".jsonl", "/dev/null", ".", "x/y.jsonl", "a\x00.jsonl"])

    def one(name, ending):
        source = DataSource(path=name + ending)
        if "/" in name or ending:  # a hub name would be asked for on the network
            outcome(lambda: list(read_rows(source, "data.prompts")), DataError)
        outcome(lambda: check(RunConfig(data={"prompts": source}, run={"stages": ["ppo"]}), starts=False))

    fuzz(one, 60, times, names, st.sampled_from(["", ".jsonl", ".json.gz"]))


@effort
def test_what_is_held_out_of_any_prompts(fresh, times):
    def one(texts, share, seed):
        path = fresh(".jsonl")
        path.write_bytes(jsonl([{"prompt": text} for text in texts]))
        config = RunConfig(run={"seed": seed}, data={"prompts": str(path), "hold_out": share})

        def use():
            data = sources(config, None)
            return data.training_prompts(), data.evaluation_prompts()

        both, _ = outcome(use, DataError)
        assert both is None or len(both[0]) + len(both[1]) == len(texts)

    fuzz(one, 60, times, st.lists(TEXT, min_size=1, max_size=5), st.floats(0, 0.49), st.integers(0, 2**64))


# --- configurations -----------------------------------------------------------------------------------------------------

KEYS = key_paths()
KNOWN = st.sampled_from(KEYS).map(".".join)
KEY = KNOWN | st.builds(lambda known, junk, place: known[:place] + junk + known[place:], KNOWN, TEXT, st.integers(0, 12)) | TEXT
YAML_VALUES = st.sampled_from([
    "", "~", "{}", "[]", "[", "{a: b", "1", "-1", "0", "1.5", ".inf", ".nan", "nan", "inf", "1e400", "0x" + "f" * 6000, "1" * 5000, "1:2:3", "true", "yes",
    '!!int ""', '!!float ""', "!!bool x", "!!timestamp x", "!!binary '='", "!!set {a, b}", "!!omap [a: 1]", "!!python/object:os.system x",
    "2026-02-31", "0001-01-01T00:00:00+23:00", "&a [*a]", "&a {b: *a}", "{<<: {a: 1}}", "? [1]\n: 2", "{1: 2}", "'", '"\\ud800"', "\ufeff", "\t", "@", "%",
    "{path: a.jsonl, limit: 0}", "a.jsonl", "!!str {=: x}", "- a\n- b", "null", "bfloat16", "x:y", "http://u:p@h/?token=t",
]) | TEXT | st.builds(lambda value: json.dumps(value), NONSENSE)


def of_config(load):
    """A configuration that writes and reads back as it is, or an error that names a place in what was given."""
    config, said = outcome(load, ConfigError)
    if config is not None:
        written = dump(config)
        assert RunConfig.model_validate(yaml.safe_load(written)) == config and written.encode("utf-8", "surrogatepass")
    return config, said


@effort
def test_overrides(fresh, times):
    path = fresh(".yaml")
    path.write_text("run: {name: toy}\ndata:\n  prompts: a.jsonl\nppo: {steps: 3}\n")

    def one(overrides):
        given = [f"{key}={value}" for key, value in overrides]
        config, said = of_config(lambda: load_config(path, given))
        assert said is None or said.startswith("override ") or f"{path}" in said

    fuzz(one, 400, times, st.lists(st.tuples(KEY, YAML_VALUES), min_size=1, max_size=3))
    fuzz(lambda text: of_config(lambda: load_config(path, [text])), 50, times, TEXT)


@effort
def test_yaml_of_anything(fresh, times):
    def one(content):
        path = fresh(".yaml")
        path.write_bytes(content)
        config, said = of_config(lambda: load_config(path))
        assert said is None or str(path) in said

    pieces = st.lists(YAML_VALUES | KNOWN | st.sampled_from(["\n", ": ", "- ", "  ", "&a ", "*a", "---\n", "...\n", "#", "run:\n  "]), max_size=8)
    fuzz(one, 200, times, st.binary(max_size=40) | pieces.map("".join).map(lambda text: text.encode("utf-8", "surrogatepass")))


@effort
def test_configurations_that_are_nearly_right(fresh, times):
    good = (Path(__file__).parents[2] / "configs" / "quickstart.yaml").read_bytes()

    def one(damage):
        path = fresh(".yaml")
        path.write_bytes(damaged(good, damage))
        config, said = of_config(lambda: load_config(path))
        assert said is None or str(path) in said

    fuzz(one, 40, times, st.lists(st.tuples(st.sampled_from(["cut", "flip", "insert", "drop"]), st.floats(0, 1), JUNK), min_size=1, max_size=4))


@effort
def test_yaml_bombs(fresh, times):
    def one(levels, width, merge):
        lines = ["l0: &l0 {a: b}"]
        for level in range(1, levels):
            inner = ", ".join([f"*l{level - 1}"] * width)
            lines.append(f"l{level}: &l{level} " + (f"{{<<: [{inner}]}}" if merge else f"[{inner}]"))
        path = fresh(".yaml")
        path.write_text("\n".join(lines))
        config, said = of_config(lambda: load_config(path))
        assert config is None and ("unknown key" in said or "aliases" in said)

    fuzz(one, 20, times, st.integers(1, 40), st.integers(1, 9), st.booleans())


@effort
def test_checks_of_any_configuration_that_has_the_right_types(fresh, monkeypatch, times):
    """What a type lets through is checked, or refused, whatever contradicts what."""
    monkeypatch.setattr("scale_rlhf.config.model_files.hub_reachable", lambda: False)
    leaves = [path for path in KEYS if not section_type(_annotation(path))]

    def one(chosen):
        path, kept = fresh(".yaml"), []
        path.write_text("{}")
        for keys, value in chosen:
            override = f"{'.'.join(keys)}={value}"
            if outcome(lambda: load_config(path, [*kept, override]))[0]:  # noqa: B023 - called here and now
                kept.append(override)
        config = load_config(path, kept)
        outcome(lambda: check(config, starts=False))

    values = st.integers(0, 9).map(str) | YAML_VALUES | st.sampled_from(["group_relative", "proximal", "truncated", "none", "drain", "flash_attention_2"])
    fuzz(one, 120, times, st.lists(st.tuples(st.sampled_from(leaves), values), min_size=1, max_size=6))


def _annotation(keys: tuple):
    section = RunConfig
    for name in keys[:-1]:
        section = section_type(section.model_fields[name].annotation)
    return section.model_fields[keys[-1]].annotation


MODEL_KEYS = [
    "head_dim", "hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers", "max_position_embeddings", "text_config", "auto_map",
    "architectures", "eos_token", "chat_template", "content", "model", "vocab", "added_tokens", "id",
]
SETTINGS = st.recursive(
    SCALARS | st.integers(0, 64), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(MODEL_KEYS), inner, max_size=4), max_leaves=8,
)


@effort
def test_the_files_of_a_model(fresh, times):
    def one(files, damage):
        folder = fresh()
        folder.mkdir()
        for name, value in files.items():
            (folder / name).write_bytes(damaged(json.dumps(value).encode(), damage))
        config = RunConfig(model={"path": str(folder)}, reference={"model": str(folder)}, data={"practice": {}})
        _, said = outcome(lambda: check(config, starts=False))
        assert said is None or str(folder) in said or "tensor_parallel" in said or "max_tokens" in said

    names = ["config.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json", "chat_template.jinja"]
    whole = st.dictionaries(st.sampled_from(MODEL_KEYS), SETTINGS, max_size=6)
    fuzz(one, 200, times, st.fixed_dictionaries({"config.json": whole}, optional=dict.fromkeys(names[1:], whole | SETTINGS)), st.just([]) | DAMAGE)
