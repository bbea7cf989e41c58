"""Log lines of every process say whose they are: `[quickstart policy/3 step 12]` stands before the message, whoever logs.

The mark is put on by the record itself, so that lines of vLLM, DeepSpeed and transformers carry it too, with whatever handlers
and formats they bring. Ours go to standard error, which Ray keeps as the actor's log, or to a file.
"""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from scale_rlhf.redaction import without_secrets

RUN, WHO = "SCALE_RLHF_RUN", "SCALE_RLHF_WHO"  # environment: processes that a process starts belong to the same
LOGGER = logging.getLogger("scale_rlhf")
CONTROLLER = "controller"
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _Where:
    step: int | None = None  # that this process works on: it makes version `step` of the policy
    marks = False


def begin(who: str, file: Path | None = None) -> None:
    """This process is `who`, such as "policy/3", of the run that the environment names. file: where our lines go."""
    end()  # what it was before
    os.environ[WHO] = who
    mark_lines()
    if file is None:
        _add(logging.StreamHandler())
    else:
        also_to(file)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


def also_to(file: Path) -> None:
    """Our lines go to this file too, if it can be opened."""
    with suppress(OSError):
        _add(_File(file, encoding="utf-8"))


def _add(handler: logging.Handler) -> None:
    handler.setFormatter(logging.Formatter(_FORMAT))
    LOGGER.addHandler(handler)


def end() -> None:
    """This process belongs to no run any more."""
    for handler in LOGGER.handlers[:]:
        LOGGER.removeHandler(handler)
        handler.close()
    if isinstance(made := logging.getLogRecordFactory(), _Marking):
        logging.setLogRecordFactory(made.before)
    os.environ.pop(WHO, None)
    _Where.step, _Where.marks = None, False


def mark_lines() -> None:
    """Mark what this process logs from now on; enough for a child of a process that has begun."""
    _Where.marks = True
    made = logging.getLogRecordFactory()
    if not isinstance(made, _Marking):
        logging.setLogRecordFactory(_Marking(made))


def at_step(step: int) -> None:
    """What is logged from now on belongs to that step."""
    _Where.step = step


def mark() -> str:
    """run, role with rank, step; a dash for what is not known."""
    return f"{os.environ.get(RUN, '-')} {os.environ.get(WHO, '-')} step {'-' if _Where.step is None else _Where.step}"


class _Marking:
    """Makes records as they were made before (vLLM adds fields that its format needs), and marks each once."""

    def __init__(self, before: Callable[..., logging.LogRecord]):
        self.before = before

    def __call__(self, *arguments: object, **named: object) -> logging.LogRecord:
        record = self.before(*arguments, **named)
        if _Where.marks and not hasattr(record, "marked"):
            with suppress(TypeError, ValueError):  # words that do not fit their message: logging itself says so
                record.msg, record.args, record.marked = f"[{mark()}] {without_secrets(record.getMessage())}", None, True
        return record


class _File(logging.FileHandler):
    """A disk that is full is told of where a run's data is written."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        pass
