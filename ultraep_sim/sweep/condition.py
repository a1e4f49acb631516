"""Conditions on columns, such as ``ep.ranks * ep.slots_per_rank <= 128``; nothing is evaluated.

The text is parsed into Python's syntax tree and walked: columns, numbers, quoted text, arithmetic,
comparisons, ``and``, ``or``, ``not`` and ``in [...]`` are known, all else is refused.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable, Mapping
from typing import Any

_MAX_LENGTH = 500
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_KNOWN = "columns, numbers, 'text', + - * /, comparisons, and, or, not, in [...]"


class Condition:
    """A condition on the columns of a row.

    Parameters
    ----------
    text : str

    Attributes
    ----------
    names : frozenset of str
        Columns it reads.

    Raises
    ------
    ValueError
        It is not a condition, or says something that is not known here.

    Examples
    --------
    >>> fits = Condition("ep.ranks * slots <= 128 and policy in ['ultraep', 'eplb']")
    >>> fits.holds({"ep.ranks": 64, "slots": 2, "policy": "eplb"})
    True
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > _MAX_LENGTH:
            raise ValueError(f"a condition of {len(text)} characters; at most {_MAX_LENGTH}")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"{text!r} is not a condition: use {_KNOWN}") from error
        names: set[str] = set()
        self._check(self._tree, names)
        self.names = frozenset(names)
        decides = ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Name | ast.Attribute
        if not isinstance(self._tree, decides):
            raise ValueError(f"{text!r} compares nothing: write for example seed <= 3")

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Say whether it holds of a row.

        Raises
        ------
        ValueError
            A column is not there, or values cannot be compared.
        """
        try:
            return bool(self._value(self._tree, row))
        except (TypeError, ZeroDivisionError) as error:
            raise ValueError(f"{self.text!r} cannot be decided: {error}") from error

    def _check(self, node: ast.expr, names: set[str]) -> None:
        name = _dotted(node)
        if name is not None:
            names.add(name)
            return
        parts: list[ast.expr]
        if isinstance(node, ast.BoolOp):
            parts = node.values
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            parts = [node.operand]
        elif isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            parts = [node.left, node.right]
        elif isinstance(node, ast.List | ast.Tuple):
            parts = node.elts
        elif isinstance(node, ast.Constant) and isinstance(node.value, str | int | float):
            parts = []
        else:
            raise ValueError(
                f"{self.text!r} says something unknown ({ast.unparse(node)!r}): use {_KNOWN}"
            )
        for part in parts:
            self._check(part, names)

    def _value(self, node: ast.expr, row: Mapping[str, Any]) -> Any:
        name = _dotted(node)
        if name is not None:
            if name not in row:
                close = difflib.get_close_matches(name, list(map(str, row)), n=1)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(row)}"
                raise ValueError(f"{self.text!r}: no column {name}; {hint} (text needs quotes)")
            return row[name]
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.List | ast.Tuple):
            return [self._value(part, row) for part in node.elts]
        if isinstance(node, ast.BoolOp):
            decide = all if isinstance(node.op, ast.And) else any
            return decide(self._value(part, row) for part in node.values)
        if isinstance(node, ast.UnaryOp):
            value = self._value(node.operand, row)
            return not value if isinstance(node.op, ast.Not) else -value
        if isinstance(node, ast.BinOp):
            left, right = self._value(node.left, row), self._value(node.right, row)
            if isinstance(left, str) or isinstance(right, str):
                raise TypeError("text takes no part in arithmetic")
            return _ARITHMETIC[type(node.op)](left, right)
        assert isinstance(node, ast.Compare)  # noqa: S101  (nothing else passed the check)
        left = self._value(node.left, row)
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            right = self._value(right_node, row)
            if not _COMPARE[type(op)](left, right):
                return False
            left = right
        return True


def _dotted(node: ast.expr) -> str | None:
    """Return ``a.b.c`` where the node is that."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return None if before is None else f"{before}.{node.attr}"
    return None
