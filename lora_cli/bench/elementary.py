"""Logarithm and exponential out of sums, products and quotients: the same to the last bit on every machine.

The C library's own differ in their last digit from machine to machine, and then one request of a million comes at
another time. IEEE 754 leaves no choice to what is used here.
"""

from math import frexp, ldexp

LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
"""ln 2 in two parts, as in fdlibm: a multiple of the first by an exponent is exact."""

ROOT_HALF = 0.7071067811865476
LOG_TERMS, EXP_TERMS = 10, 14


def log(x: float) -> float:
    """The natural logarithm of a number above 0, to 15 digits or so."""
    part, exponent = frexp(x)
    if part < ROOT_HALF:
        part, exponent = 2 * part, exponent - 1
    ratio = (part - 1) / (part + 1)
    square, total = ratio * ratio, 0.0
    for odd in range(2 * LOG_TERMS + 1, 0, -2):  # artanh, from its smallest term on
        total = total * square + 1 / odd
    return exponent * LN2_HIGH + (exponent * LN2_LOW + 2 * ratio * total)


def exp(x: float) -> float:
    """The exponential of a number from -700 to 700, to 15 digits or so."""
    twos = int(x / (LN2_HIGH + LN2_LOW) + (0.5 if x >= 0 else -0.5))
    rest = (x - twos * LN2_HIGH) - twos * LN2_LOW
    total = 1.0
    for term in range(EXP_TERMS, 0, -1):
        total = 1 + total * rest / term
    return ldexp(total, twos)
