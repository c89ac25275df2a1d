"""How unequally adapters are asked for: the families of the literature, each under its own name.

Three families are called "alpha" somewhere and mean different things: Zipf's exponent (weight ``i^-s``), the geometric
ratio of Punica and SGLang (``a^-i``), and the power of S-LoRA (``((i+1)/n)^a - (i/n)^a``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation

from lora_cli.core.nearest import did_you_mean
from lora_cli.errors import UsageError

# Weights are whole numbers out of decimal arithmetic: unlike the C library's pow, the same on every machine.
SCALE = 10**18
_EXACT = Context(prec=34)


def _uniform(_rank: int, _adapters: int, _parameter: Decimal) -> Decimal:
    return Decimal(1)


def _zipf(rank: int, _adapters: int, s: Decimal) -> Decimal:
    return _EXACT.power(Decimal(rank), -s)


def _geometric(rank: int, _adapters: int, ratio: Decimal) -> Decimal:
    return _EXACT.power(ratio, Decimal(-rank))


def _slora_power(rank: int, adapters: int, a: Decimal) -> Decimal:
    upper, lower = _EXACT.divide(Decimal(rank), adapters), _EXACT.divide(Decimal(rank - 1), adapters)
    return _EXACT.power(upper, a) - (_EXACT.power(lower, a) if lower else Decimal(0))


@dataclass(frozen=True, slots=True)
class _Family:
    """Weight by rank (from 1), and the parameter's default and bounds; no default: there is no parameter."""

    weight: Callable[[int, int, Decimal], Decimal]
    default: Decimal | None = None
    lowest: Decimal = Decimal(0)
    highest: Decimal = Decimal(10)


FAMILIES: Mapping[str, _Family] = {
    "uniform": _Family(_uniform),
    "round-robin": _Family(_uniform),
    "distinct": _Family(_uniform),
    "zipf": _Family(_zipf, Decimal("1.0")),
    "geometric": _Family(_geometric, Decimal("1.5"), lowest=Decimal("1.001"), highest=Decimal(1000)),
    "slora-power": _Family(_slora_power, Decimal("0.3"), lowest=Decimal("0.01")),
}


TURNS = ("round-robin", "distinct")
"""Families that take the adapters in turn. ``distinct`` is Punica's and SGLang's word: no adapter again before all."""


@dataclass(frozen=True, slots=True)
class Popularity:
    """A family of ``FAMILIES`` and its parameter (None where it has none).

    With ``given``, a weight for each adapter out of a file, ``family`` is the file's name.
    """

    family: str
    parameter: Decimal | None = None
    given: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.family if self.parameter is None else f"{self.family}:{self.parameter}"


def parse_popularity(text: str) -> Popularity:
    """``uniform``, ``round-robin``, ``distinct``, ``zipf:1.0``, ``geometric:1.5``, ``slora-power:0.3``.

    A parameter may be left out.

    Raises:
        UsageError: another family, or a parameter that is none or out of bounds.
    """
    name, colon, number = text.partition(":")
    family = FAMILIES.get(name)
    if family is None:
        raise UsageError(f"--popularity {text[:60]}: there is no such family", hint=did_you_mean(name, FAMILIES))
    if family.default is None:
        if colon:
            raise UsageError(f"--popularity {text[:60]}: {name} has no parameter", hint=f"write {name}")
        return Popularity(name)
    try:
        parameter = Decimal(number) if colon else family.default
        in_bounds = len(number) <= 20 and family.lowest <= parameter <= family.highest
    except InvalidOperation:
        in_bounds = False
    if not in_bounds:
        raise UsageError(
            f"--popularity {text[:60]}: the parameter is a number from {family.lowest} to {family.highest}",
            hint=f"write {name}:{family.default}",
        )
    return Popularity(name, parameter)


def weights(popularity: Popularity, adapters: int) -> tuple[int, ...]:
    """One whole number per adapter, the most popular first, proportional to how often it is asked for.

    The largest is about ``SCALE``; none is 0, so that every adapter can come.
    """
    if popularity.given:
        return popularity.given
    family = FAMILIES[popularity.family]
    parameter = popularity.parameter if popularity.parameter is not None else Decimal(0)
    raw = [family.weight(rank, adapters, parameter) for rank in range(1, adapters + 1)]
    return scaled(raw)


def scaled(raw: Sequence[Decimal]) -> tuple[int, ...]:
    """Weights as whole numbers, the largest of them ``SCALE`` and none 0."""
    largest = max(raw, default=Decimal(1))
    return tuple(max(1, int(_EXACT.divide(_EXACT.multiply(one, SCALE), largest))) for one in raw)
