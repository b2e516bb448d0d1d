"""Filters: conditions on record fields joined by and, or, not, parsed without `eval`, in the three-valued logic of SQL.

A comparison with a missing field is unknown, and so is `not` of unknown; a case for which the whole condition is unknown
is left out.
"""

import ast
import operator
from collections.abc import Callable, Collection, Mapping

from mmvae.case import Value
from mmvae.errors import InputError

_COMPARE = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
Record = Mapping[str, Value]
Predicate = Callable[[Record], bool]
_Condition = Callable[[Record], bool | None]
_Term = Callable[[Record], Value | None]


def parse_where(text: str, fields: Collection[str] | None = None) -> Predicate:
    """The condition as a function of a record, True only if it is known to hold.

    >>> young = parse_where("not age_years > 50")
    >>> young({"age_years": 40}), young({})
    (True, False)

    Args:
        text: e.g. `age_years > 50 and menopause == 'post'`.
        fields: Known field names; others are refused. None accepts any name.

    Raises:
        InputError: naming what was found and expected.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        condition = _condition(tree, text, fields)
    except SyntaxError as error:
        raise _refusal(
            text, f"not understood at column {error.offset}; expected e.g. \"age_years > 50 and sex == 'F'\""
        ) from error
    except (RecursionError, MemoryError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise _refusal(text[:80], f"cannot be parsed ({type(error).__name__})") from error
    return lambda record: condition(record) is True


def _refusal(text: str, why: str) -> InputError:
    return InputError(f"the condition {text!r}: {why}", "where")


def _all(values: list[bool | None]) -> bool | None:
    """Kleene's conjunction: false if any value is false, else unknown if any is unknown."""
    return False if False in values else None if None in values else True


def _condition(node: ast.expr, text: str, fields: Collection[str] | None) -> _Condition:
    if isinstance(node, ast.BoolOp):
        parts = [_condition(value, text, fields) for value in node.values]
        if isinstance(node.op, ast.And):
            return lambda record: _all([part(record) for part in parts])
        return lambda record: _not(_all([_not(part(record)) for part in parts]))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = _condition(node.operand, text, fields)
        return lambda record: _not(inner(record))
    if isinstance(node, ast.Compare):
        return _comparison(node, text, fields)
    raise _refusal(text, f"found {type(node).__name__}; expected comparisons joined by and, or, not")


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value


def _comparison(node: ast.Compare, text: str, fields: Collection[str] | None) -> _Condition:
    sides = [node.left, *node.comparators]
    if any(type(op) not in _COMPARE for op in node.ops) or not all(
        isinstance(side, ast.Name | ast.Constant | ast.UnaryOp) for side in sides
    ):
        raise _refusal(
            text, "expected comparisons (< <= > >= == !=) of record fields with numbers or quoted words"
        )
    terms = [_term(side, text, fields) for side in sides]
    operators = [_COMPARE[type(op)] for op in node.ops]

    def compare(record: Record) -> bool | None:
        values = [term(record) for term in terms]
        pairs = zip(operators, values, values[1:])
        return _all([_compared(op, a, b, text) for op, a, b in pairs])

    return compare


def _compared(op: Callable, a: Value | None, b: Value | None, text: str) -> bool | None:
    if a is None or b is None:
        return None
    try:
        return op(a, b)
    except TypeError as error:
        raise _refusal(text, f"compares {a!r} with {b!r}; quote words, leave numbers bare") from error


def _term(node: ast.expr, text: str, fields: Collection[str] | None) -> _Term:
    if isinstance(node, ast.Name):
        name = node.id
        if fields is not None and name not in fields:
            raise _refusal(text, f"there is no record field {name!r}; there are {sorted(fields)}")
        return lambda record: record.get(name)
    negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    constant = node.operand if isinstance(node, ast.UnaryOp) else node
    value = constant.value if isinstance(constant, ast.Constant) else None
    value = None if isinstance(value, bool) else value  # True is not the number 1 here
    if negative and isinstance(value, int | float):
        return lambda record: -value
    if isinstance(node, ast.UnaryOp) or not isinstance(value, int | float | str):
        raise _refusal(text, f"expected a field, a number or a quoted word, found {ast.unparse(node)}")
    return lambda record: value
