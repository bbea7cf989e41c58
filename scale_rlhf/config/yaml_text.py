"""YAML text as plain values, whatever stands in it: one kind of error, and no more memory than the text is worth."""

import yaml

MOST_NODES = 100_000  # of a document once its aliases are written out: nine lines of aliases to aliases can stand for billions


class MalformedYaml(Exception):
    """problem: what is wrong. line: where in the text, from 1; None where that is not known."""

    def __init__(self, problem: str, line: int | None = None):
        super().__init__(problem)
        self.problem, self.line = problem, line


def parse(text: str) -> tuple[yaml.Node | None, object]:
    """(tree of nodes, which know their lines; plain values that share nothing). Raises MalformedYaml, and nothing else."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_size(node)
        value = None if node is None else _unshared(yaml.SafeLoader("").construct_document(node))
        if "<<" in text:  # which construction has written out into the tree
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        return node, value
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise MalformedYaml(str(error.problem or error.context), mark.line + 1 if mark else None) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # `2026-02-31` is a ValueError of Python's own
        raise MalformedYaml(str(error)) from None
    except (LookupError, AttributeError, TypeError, OverflowError) as error:  # of a tag on what it does not fit: !!int ""
        raise MalformedYaml(f"a value that its tag does not fit ({type(error).__name__}: {error})") from None


def _check_size(root: yaml.Node | None) -> None:
    sizes: dict[yaml.Node, int | None] = {}  # None: we are inside that node

    def size(node: yaml.Node) -> int:
        if node in sizes:
            if sizes[node] is None:
                raise MalformedYaml("an anchor that holds itself", node.start_mark.line + 1)
            return sizes[node]
        sizes[node] = None
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        total = 1
        for part in inner:
            total += sum(map(size, part)) if isinstance(part, tuple) else size(part)
        sizes[node] = total
        return total

    if root is not None and (total := size(root)) > MOST_NODES:
        raise MalformedYaml(f"with its aliases written out it has {total:.2g} values, more than {MOST_NODES:,}")


def _unshared(value: object) -> object:
    """A copy in which what an anchor and its aliases share is separate: an override of one leaves the others."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value
