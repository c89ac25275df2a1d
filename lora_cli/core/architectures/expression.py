"""The arithmetic of the tables: dimensions as expressions over field names."""

from collections.abc import Mapping


def evaluate(expression: str, numbers: Mapping[str, int]) -> int:
    """The value of an expression of ``table``'s grammar.

    Raises:
        ValueError: the expression is not of the grammar, which is a fault of a table, not of a config.
        KeyError: it names a field that the table does not list.
        ZeroDivisionError: a divisor is 0.
    """
    tokens = expression.split()
    if len(tokens) % 2 == 0 or not all(map(_is_operand, tokens[::2])):
        raise ValueError(f"not a dimension: {expression!r}")
    total, term = 0, _operand(tokens[0], numbers)
    for operator, operand in zip(tokens[1::2], tokens[2::2], strict=True):
        value = _operand(operand, numbers)
        if operator == "*":
            term *= value
        elif operator == "//":
            term //= value
        elif operator == "+":
            total, term = total + term, value
        else:
            raise ValueError(f"not a dimension: {expression!r}")
    return total + term


def _is_operand(token: str) -> bool:
    return token.isdecimal() or token.replace(".", "_").isidentifier()


def _operand(token: str, numbers: Mapping[str, int]) -> int:
    return int(token) if token.isdecimal() else numbers[token]
