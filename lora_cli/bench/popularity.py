"""The popularity of adapters: Zipf's (weight ``i^-s``), uniform, or the weights of a file.

A file has measured counts: ``{"sql": 120, "chat": 3.5}``, or the weights alone as a list.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from lora_cli import parse
from lora_cli.errors import FormatError, MachineError, NotFound, UsageError
from lora_cli.text import did_you_mean, shown

# Weights are whole numbers out of decimal arithmetic: unlike the C library's pow, the same on every machine.
SCALE = 10**18
_EXACT = Context(prec=34)


FAMILIES = ("uniform", "zipf")
USUAL, LOWEST, HIGHEST = Decimal("1.0"), Decimal(0), Decimal(10)
"""Zipf's exponent."""


@dataclass(frozen=True, slots=True)
class Popularity:
    """One of ``FAMILIES``, and Zipf's exponent (None if it is uniform)."""

    family: str
    parameter: Decimal | None = None

    def __str__(self) -> str:
        return self.family if self.parameter is None else f"{self.family}:{self.parameter}"

    def weights(self, names: Sequence[str]) -> tuple[int, ...]:
        """A weight for each of the adapters, the most popular first, as ``integer_weights`` makes them."""
        exponent = -self.parameter if self.parameter is not None else Decimal(0)
        return integer_weights([_EXACT.power(Decimal(rank), exponent) for rank in range(1, len(names) + 1)])


def parse_popularity(text: str) -> Popularity:
    """``uniform``, or ``zipf:1.0``, whose exponent may be left out.

    Raises:
        UsageError: another family, or a parameter that is not a number or out of bounds.
    """
    name, colon, number = text.partition(":")
    if name not in FAMILIES:
        raise UsageError(f"--popularity {text[:60]}: unknown family", hint=did_you_mean(name, FAMILIES))
    if name == "uniform":
        if colon:
            raise UsageError(f"--popularity {text[:60]}: {name} has no parameter", hint=f"write {name}")
        return Popularity(name)
    try:
        parameter = Decimal(number) if colon else USUAL
        in_bounds = len(number) <= 20 and LOWEST <= parameter <= HIGHEST
    except InvalidOperation:
        in_bounds = False
    if not in_bounds:
        raise UsageError(
            f"--popularity {text[:60]}: the parameter is a number from {LOWEST} to {HIGHEST}",
            hint=f"write {name}:{USUAL}",
        )
    return Popularity(name, parameter)


def integer_weights(raw: Sequence[Decimal]) -> tuple[int, ...]:
    """Weights as whole numbers, the largest of them ``SCALE`` and none 0, so that every adapter can come."""
    largest = max(raw, default=Decimal(1))
    return tuple(max(1, int(_EXACT.divide(_EXACT.multiply(one, SCALE), largest))) for one in raw)


LARGEST_FILE = 64 << 20
MOST_ADAPTERS = 100_000

_WEIGHT = parse.number_within(0, 1e18)


@dataclass(frozen=True, slots=True)
class MeasuredPopularity:
    """Names (none if the file has a list) and their weights, the largest first where they have names."""

    file: str
    names: tuple[str, ...]
    counts: tuple[Decimal, ...]

    def weights(self, names: Sequence[str]) -> tuple[int, ...]:
        """The weight of each of these adapters.

        Raises:
            UsageError: one of them has no weight, or the list is not as long as they are many.
        """
        if not self.names:
            if len(names) != len(self.counts):
                raise UsageError(f"{self.file} has {len(self.counts)} weights, but there are {len(names)} adapters")
            return integer_weights(self.counts)
        by_name = dict(zip(self.names, self.counts, strict=True))
        missing = [name for name in names if name not in by_name]
        if missing:
            raise UsageError(f"{self.file} has no weight for {shown(missing[0])}", hint="add it, at least as 0")
        return integer_weights([by_name[name] for name in names])


AnyPopularity = Popularity | MeasuredPopularity


def read_popularity(text: str) -> AnyPopularity:
    """One of ``FAMILIES``, or a file of weights (``.json``).

    Raises:
        UsageError: there is no such family, or the file is wrong.
        NotFound: there is no such file.
        MachineError: it cannot be read.
    """
    if not text.endswith(".json"):
        return parse_popularity(text)
    try:
        with Path(text).open("rb") as opened:
            data = opened.read(LARGEST_FILE + 1)
    except FileNotFoundError as error:
        raise NotFound(f"--popularity {text}: not found") from error
    except OSError as error:
        raise MachineError(f"{text} cannot be read: {error.strerror or error}") from error
    if len(data) > LARGEST_FILE:
        raise UsageError(f"--popularity {text}: is larger than {LARGEST_FILE >> 20} MiB")
    try:
        return _measured(parse.json_value(data, text), text)
    except FormatError as error:
        raise UsageError(error.message, hint='{"sql": 120, "chat": 3.5}') from error


def _measured(value: Any, where: str) -> MeasuredPopularity:
    if isinstance(value, list):
        names: tuple[str, ...] = ()
        weights = parse.list_of(_weight)(value, where)
    else:
        by_name = parse.map_of(_weight)(value, where)
        names = tuple(sorted(by_name, key=lambda name: (-by_name[name], name)))
        weights = tuple(by_name[name] for name in names)
    if not any(weights) or len(weights) > MOST_ADAPTERS:
        raise FormatError(f"must have 1 to {MOST_ADAPTERS} weights, and not only zeros", where=where)
    return MeasuredPopularity(where, names, weights)


def _weight(value: Any, where: str) -> Decimal:
    return Decimal(repr(_WEIGHT(value, where)))
