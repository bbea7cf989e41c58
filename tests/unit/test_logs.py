"""Log lines say whose they are, whoever writes them and whatever format a library has chosen. Each in a process of its own."""

import os
import subprocess
import sys


def said(code: str, **environment: str) -> str:
    variables = os.environ | {"SCALE_RLHF_RUN": "toy"} | environment
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_line_has_run_role_rank_and_step():
    text = said("from scale_rlhf.telemetry import logs\n"
                "logs.begin('policy/3'); logs.LOGGER.info('begins'); logs.at_step(12); logs.LOGGER.info('loss %.1f', 2.5)")
    first, second = text.splitlines()
    assert first.endswith("INFO scale_rlhf: [toy policy/3 step -] begins")
    assert second.endswith("INFO scale_rlhf: [toy policy/3 step 12] loss 2.5")


def test_libraries_with_handlers_of_their_own_are_marked_too():
    text = said("import logging, sys\nfrom scale_rlhf.telemetry import logs\nlogs.begin('rollout/engine-0'); logs.at_step(4)\n"
                "theirs = logging.getLogger('DeepSpeed'); theirs.propagate = False\n"
                "handler = logging.StreamHandler(); handler.setFormatter(logging.Formatter('DS %(message)s'))\n"
                "theirs.addHandler(handler); theirs.warning('slow')\nlogging.getLogger('plain').error('bad')")
    assert text.splitlines() == ["DS [toy rollout/engine-0 step 4] slow", "[toy rollout/engine-0 step 4] bad"]


def test_records_with_fields_of_their_own_keep_them():
    """vLLM's format needs a field that its factory adds, whichever of us came first; and each line has one mark."""
    theirs = ("before = logging.getLogRecordFactory()\n"
              "def factory(*a, **k):\n    record = before(*a, **k); record.theirs = 'V'; return record\n"
              "logging.setLogRecordFactory(factory)\n")
    for first, second in (("logs.begin('policy/0')\n", theirs), (theirs, "logs.begin('policy/0')\n")):
        code = ["import logging", "from scale_rlhf.telemetry import logs", first, second, "handler = logging.StreamHandler()",
                "handler.setFormatter(logging.Formatter('%(theirs)s %(message)s'))", "log = logging.getLogger('vllm')",
                "log.addHandler(handler)", "log.error('100%% of %s', 'it')"]
        text = said("\n".join(code))
        assert text.splitlines() == ["V [toy policy/0 step -] 100% of it"]


def test_a_child_belongs_to_the_same_role():
    child = "import logging; from scale_rlhf.telemetry import logs; logs.mark_lines(); logging.getLogger('x').error('inside')"
    text = said("import subprocess, sys; from scale_rlhf.telemetry import logs; logs.begin('rollout/engine-1')\n"
                f"subprocess.run([sys.executable, '-c', {child!r}])")
    assert text.splitlines() == ["[toy rollout/engine-1 step -] inside"]


def test_no_secret_is_logged():
    text = said("import logging\nfrom scale_rlhf.telemetry import logs\nlogs.begin('reward/0')\n"
                "logging.getLogger('httpx').error('GET https://me:hunter22@host/?api_key=abcdefghij with %s', 'sesame-open-12')",
                MY_API_KEY="sesame-open-12")
    assert "[toy reward/0" in text and "***" in text
    assert not [secret for secret in ("hunter22", "abcdefghij", "sesame-open-12") if secret in text]


def test_the_controller_logs_into_the_runs_folder_and_ends(tmp_path):
    said("import logging, os, pathlib\nfrom scale_rlhf.telemetry import logs, process\n"
         f"folder = pathlib.Path({str(tmp_path)!r})\n"
         "with process.controller('mine', folder):\n    logs.at_step(2); logs.LOGGER.info('goes on')\n"
         "assert logs.RUN not in os.environ and logging.getLogRecordFactory() is logging.LogRecord")
    assert (tmp_path / "controller.log").read_text().endswith("INFO scale_rlhf: [mine controller step 2] goes on\n")


def test_importing_it_is_light():
    said("import sys, scale_rlhf.telemetry.process; assert not {'torch', 'ray', 'numpy'} & sys.modules.keys()")


def test_a_file_that_cannot_be_opened_is_no_end(tmp_path):
    said("import pathlib\nfrom scale_rlhf.telemetry import logs\n"
         f"logs.begin('controller', pathlib.Path({str(tmp_path)!r}) / 'no' / 'x')\n"
         "logs.LOGGER.info('goes on')")
