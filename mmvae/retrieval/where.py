"""`--where`: comparisons of record fields joined by and, or, not; parsed, never evaluated."""

import ast
import operator
from collections.abc import Callable, Mapping

from mmvae.case import InputError

_COMPARE = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
Predicate = Callable[[Mapping], bool]


def parse_where(text: str, fields: Mapping | None = None) -> Predicate:
    """The condition as a function of a record; a comparison with a missing field is false.

    Args:
        text: e.g. `age_years > 50 and menopause == 'post'`.
        fields: Known field names; others are refused.

    Raises:
        InputError: naming what was found and expected.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise InputError(
            f"--where {text!r}: not understood at column {error.offset}; expected e.g. \"age_years > 50 and sex == 'F'\""
        ) from error
    return _condition(tree, text, fields)


def _condition(node: ast.expr, text: str, fields: Mapping | None) -> Predicate:
    if isinstance(node, ast.BoolOp):
        parts = [_condition(value, text, fields) for value in node.values]
        every = all if isinstance(node.op, ast.And) else any
        return lambda record: every(part(record) for part in parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = _condition(node.operand, text, fields)
        return lambda record: not inner(record)
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        if any(type(op) not in _COMPARE for op in node.ops) or not all(
            isinstance(s, ast.Name | ast.Constant | ast.UnaryOp) for s in sides
        ):
            raise InputError(
                f"--where {text!r}: expected comparisons (< <= > >= == !=) of record fields with numbers or quoted words"
            )
        values = [_value(side, text, fields) for side in sides]
        operators = [_COMPARE[type(op)] for op in node.ops]

        def compare(record: Mapping) -> bool:
            got = [value(record) for value in values]
            if any(x is None for x in got):
                return False
            try:
                return all(op(a, b) for op, a, b in zip(operators, got, got[1:]))
            except TypeError as error:
                raise InputError(
                    f"--where {text!r}: compares {got[0]!r} with {got[1]!r}; quote words, leave numbers bare"
                ) from error

        return compare
    raise InputError(
        f"--where {text!r}: found {type(node).__name__}; expected comparisons joined by and, or, not"
    )


def _value(node: ast.expr, text: str, fields: Mapping | None) -> Callable[[Mapping], object]:
    if isinstance(node, ast.Name):
        if fields is not None and node.id not in fields:
            raise InputError(
                f"--where {text!r}: there is no record field {node.id!r}; there are {sorted(fields)}"
            )
        return lambda record: record.get(node.id)
    if isinstance(node, ast.UnaryOp):
        if (
            isinstance(node.op, ast.USub)
            and isinstance(node.operand, ast.Constant)
            and isinstance(node.operand.value, int | float)
        ):
            return lambda record: -node.operand.value
        raise InputError(f"--where {text!r}: expected a field, a number or a quoted word")
    if not isinstance(node.value, int | float | str):
        raise InputError(f"--where {text!r}: expected a number or a quoted word, found {node.value!r}")
    return lambda record: node.value
