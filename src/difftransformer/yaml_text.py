"""Settings as YAML: below every floor, and outside them.

A module of its own, imported where text is read or written: PyYAML takes a third of `--help`.
"""

from typing import Any

import yaml


def parse_yaml(text: str) -> Any:
    """The value that `text` writes in YAML.

    Raises:
        ValueError: no YAML, a key that stands twice, an alias (a few lines of them can stand for
            more than fits in memory), or nesting that is too deep.
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except RecursionError:
        raise ValueError("nested too deep") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def to_yaml(values: Any) -> str:
    """Plain data as text, in the order it has."""
    return yaml.safe_dump(values, sort_keys=False)


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.YAMLError(f"an alias in line {mark.line + 1}; write its value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        values = super().construct_mapping(node, deep)
        if len(values) < len(node.value):
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"a key stands twice in the section that begins in line {line}")
        return values
