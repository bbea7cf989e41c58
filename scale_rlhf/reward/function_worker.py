"""The process that runs a user's reward function. Imports no torch, so that it starts in under a second."""

import difflib
import importlib
import inspect
import traceback
from collections.abc import Callable
from typing import Any

from scale_rlhf.errors import ConfigError
from scale_rlhf.reward.interface import ScoringFailed, finite_scores
from scale_rlhf.telemetry import logs

LONGEST_ERROR = 2000  # characters of what a function raised


class FunctionWorker:
    """A Ray actor. path: package.module:name; arguments: what it is given beside the samples. Runs one call at a time."""

    def __init__(self, path: str, arguments: dict[str, Any] | None = None):
        self.path, self.arguments = path, arguments or {}
        self.function: Callable | None = None

    def load(self) -> None:
        """Import the function. Raises ConfigError where there is none, or it does not take the arguments."""
        self.function = find_function(self.path)
        check_arguments(self.function, self.path, self.arguments)
        logs.LOGGER.info("scores with %s", self.path)

    def score(self, documents: list[dict], step: int | None = None) -> list[float]:
        """One finite number a document. Raises ScoringFailed that names the function, and where in it things went wrong.

        step: of the run, that what the function logs is marked with.
        """
        if step is not None:
            logs.at_step(step)
        try:
            returned = self.function(documents, **self.arguments)
        except ConfigError:
            raise  # no other try would help
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {str(error)[:LONGEST_ERROR]}"
            raise ScoringFailed(f"reward.function {self.path} raised {said}, with {len(documents)} samples, "
                                f"at {place.filename}:{place.lineno}") from error
        return finite_scores(returned, len(documents), f"reward.function {self.path}")


def find_function(path: str) -> Callable:
    """What `package.module:name` names. Raises ConfigError when it cannot be imported or called."""
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ConfigError(f"reward.function: expected package.module:name, found {path!r}")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(f"reward.function: {module_name} could not be imported ({type(error).__name__}: {error}); "
                          "is its folder on PYTHONPATH, on every node?") from error
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, [n for n in vars(module) if not n.startswith("__")], n=1)
        hint = f"; did you mean {module_name}:{near[0]}?" if near else ""
        raise ConfigError(f"reward.function: {module_name} ({module.__file__}) has no {name!r}{hint}")
    function = getattr(module, name)
    if not callable(function):
        raise ConfigError(f"reward.function: expected a function at {path}, found {type(function).__name__}")
    return function


def check_arguments(function: Callable, path: str, arguments: dict[str, Any]) -> None:
    """Raises ConfigError where `function(samples, **arguments)` names an argument that it has not, or leaves one out."""
    try:
        takes = inspect.signature(function)
    except (TypeError, ValueError):  # some that are written in C say nothing of themselves
        return
    try:
        takes.bind([], **arguments)
    except TypeError as error:
        names = list(takes.parameters)[1:]
        near = [found[0] for name in arguments if name not in names
                if (found := difflib.get_close_matches(name, names, n=1))]
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"reward.arguments: {path} takes {', '.join(names) or 'none'}, and was given "
                          f"{', '.join(arguments) or 'none'} ({error}){hint}") from None
