"""Read YAML into plain values while remembering the line of every key.

Only the YAML 1.2 core types are understood (null, true/false, integers, floats, strings), so that
``off``, ``no`` and ``12:30`` stay the text a person typed. Nothing in a file can build an object.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ultraep_sim.errors import ScenarioError

Location = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_VALUES = 100_000  # after aliases are expanded: a small file can name a huge tree
MAX_DEPTH = 50


class _CoreLoader(yaml.SafeLoader):
    """The safe loader without YAML 1.1's surprises."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's name)


_INT = re.compile(r"^[-+]?[0-9]+(?:_[0-9]+)*$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf)|\.(?:nan|NaN))$"
)
_CoreLoader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:null|Null|NULL|~|)$"), ["n", "N", "~", ""]
)
_CoreLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_CoreLoader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_CoreLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def read_yaml(text: str, file: str | Path | None = None) -> tuple[Any, dict[Location, int]]:
    """Parse one YAML document.

    Parameters
    ----------
    text : str
        The document.
    file : str or Path, optional
        Named in errors.

    Returns
    -------
    value : object
        Dicts with string keys, lists, str, int, float, bool or None.
    lines : dict
        Line (from 1) of every value, by its location, for example ``("ep", "ranks")``.

    Raises
    ------
    ScenarioError
        The text is not one well-formed document, repeats a key, is too large, or uses tags.
    """
    try:
        node = yaml.compose(text, Loader=_CoreLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}" if mark else None
        raise ScenarioError(
            f"not valid YAML: {error.problem or error.context}",
            file=file,
            place=place,
            value=_line_at(text, mark.line) if mark else "",
            remedy="check the indentation, quotes and brackets there",
        ) from error
    except yaml.YAMLError as error:
        raise ScenarioError(
            f"not valid YAML: {error}", file=file, remedy="save it as plain UTF-8 text"
        ) from error
    except RecursionError as error:
        raise _too_deep(file) from error
    if node is None:
        raise ScenarioError(
            "the file is empty",
            file=file,
            remedy="start from scenarios/quickstart.yaml",
        )
    builder = _Builder(file)
    return builder.build(node, (), ()), builder.lines


def read_value(text: str) -> Any:
    """Parse the value of a ``--set path=value`` override with the same rules as a file."""
    return read_yaml(text if text.strip() else "null")[0]


def _line_at(text: str, index: int) -> str:
    lines = text.splitlines()
    return lines[index].strip() if index < len(lines) else ""


def _too_deep(file: str | Path | None) -> ScenarioError:
    return ScenarioError(
        "values are nested too deeply",
        file=file,
        remedy=f"a scenario needs fewer than {MAX_DEPTH} levels",
    )


class _Builder:
    """Turn a YAML node tree into plain values and a map of lines."""

    def __init__(self, file: str | Path | None) -> None:
        self.file = file
        self.lines: dict[Location, int] = {}

    def build(self, node: yaml.Node, at: Location, above: tuple[int, ...]) -> Any:
        """Return the value of ``node``; ``above`` holds the nodes it lies in."""
        self.lines.setdefault(at, node.start_mark.line + 1)
        if len(self.lines) > MAX_VALUES:
            raise ScenarioError(
                "too many values",
                file=self.file,
                remedy=f"a scenario may hold {MAX_VALUES} values; aliases count each time",
            )
        if len(above) > MAX_DEPTH or id(node) in above:
            raise _too_deep(self.file)
        inside = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at, inside)
        if isinstance(node, yaml.SequenceNode):
            self._plain(node, "tag:yaml.org,2002:seq", at)
            return [self.build(item, (*at, index), inside) for index, item in enumerate(node.value)]
        return self._scalar(node, at)

    def _mapping(self, node: yaml.MappingNode, at: Location, inside: tuple[int, ...]) -> Any:
        self._plain(node, "tag:yaml.org,2002:map", at)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error("a key must be a plain word", line, at, key_node.tag)
            key = str(key_node.value)
            if key in result:
                raise self._error("this key stands twice", line, (*at, key), key)
            self.lines[(*at, key)] = line
            result[key] = self.build(value_node, (*at, key), inside)
        return result

    def _scalar(self, node: yaml.Node, at: Location) -> Any:
        line = node.start_mark.line + 1
        kind = node.tag.rpartition(":")[2]
        text = str(node.value)
        if kind == "str":
            return text
        if kind == "null" and node.tag.startswith("tag:yaml.org"):
            return None
        try:
            if kind == "bool":
                return text.lower() == "true"
            if kind == "int" and _INT.match(text):
                return int(text)
            if kind == "float":
                return float(
                    text.replace(".inf", "inf")
                    .replace(".Inf", "inf")
                    .replace(".nan", "nan")
                    .replace(".NaN", "nan")
                )
        except ValueError as error:
            raise self._error("this number cannot be read", line, at, text) from error
        raise self._error("tags are not understood here", line, at, node.tag)

    def _plain(self, node: yaml.Node, tag: str, at: Location) -> None:
        if node.tag != tag:
            raise self._error(
                "tags are not understood here", node.start_mark.line + 1, at, node.tag
            )

    def _error(self, problem: str, line: int, at: Location, value: object) -> ScenarioError:
        return ScenarioError(
            problem,
            file=self.file,
            place=f"line {line}, {dotted(at)}" if at else f"line {line}",
            value=value,
            remedy="use plain keys, each once, with plain numbers, words, lists or mappings",
        )


def dotted(location: Location) -> str:
    """Write a location the way ``--set`` reads it, for example ``policies.1.name``."""
    return ".".join(str(part) for part in location)
