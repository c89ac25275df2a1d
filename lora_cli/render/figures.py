"""Numbers in few columns, and names in as many as there are."""

import math
from collections.abc import Sequence


def brief(value: float) -> str:
    """A number at least 0 in at most four columns: ``123``, ``1.23``, ``.042``, ``4e-3``."""
    if not math.isfinite(value):
        return "inf" if value > 0 else "nan"
    if value == 0:
        return "0"
    for least, digits in ((99.95, 0), (9.995, 1), (0.9995, 2), (0.00995, 3)):
        if least <= value < 9999.5:
            return f"{value:.{digits}f}".removeprefix("0")
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def percent(share: float) -> str:
    """A share as people say it: ``97 %``, ``0.42 %``."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 or value == 0 else f"{value:.2g} %"


def times(ratio: float) -> str:
    """``4.1 times``, or ``1/5.2``."""
    return f"{ratio:.2g} times" if ratio >= 1 else f"1/{1 / ratio:.2g}"


def cut(text: str, width: int) -> str:
    """``text`` in so many columns: its middle goes, because names differ at their ends."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def span(numbers: Sequence[int]) -> str:
    """One number, or the least and the most: ``4``, ``2-8``."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}-{high}"
