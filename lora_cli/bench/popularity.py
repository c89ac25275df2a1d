"""The popularity of adapters: the distributions of the literature under their own names, or the weights of a file.

Three families are called "alpha" somewhere and mean different things: Zipf's exponent (weight ``i^-s``), the geometric
ratio of Punica and SGLang (``a^-i``), and the power of S-LoRA (``((i+1)/n)^a - (i/n)^a``). A file has measured counts:
``{"sql": 120, "chat": 3.5}``, or the weights alone as a list.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from lora_cli.bench.result_file import read_bounded
from lora_cli.bench.trace import bounded_lines
from lora_cli.core import parse
from lora_cli.core.did_you_mean import did_you_mean
from lora_cli.core.text import shown
from lora_cli.errors import FormatError, UsageError

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


ROUND_ROBIN_FAMILIES = ("round-robin", "distinct")
"""Families that take the adapters in turn. ``distinct`` is Punica's and SGLang's word: no adapter again before all."""


@dataclass(frozen=True, slots=True)
class Popularity:
    """A family of ``FAMILIES`` and its parameter (None if it has none)."""

    family: str
    parameter: Decimal | None = None

    def __str__(self) -> str:
        return self.family if self.parameter is None else f"{self.family}:{self.parameter}"

    def weights(self, names: Sequence[str]) -> tuple[int, ...]:
        """A weight for each of the adapters, the most popular first, as ``integer_weights`` makes them."""
        weight, parameter = FAMILIES[self.family].weight, self.parameter or Decimal(0)
        return integer_weights([weight(rank, len(names), parameter) for rank in range(1, len(names) + 1)])


def parse_popularity(text: str) -> Popularity:
    """``uniform``, ``round-robin``, ``distinct``, ``zipf:1.0``, ``geometric:1.5``, ``slora-power:0.3``.

    A parameter may be left out.

    Raises:
        UsageError: another family, or a parameter that is not a number or out of bounds.
    """
    name, colon, number = text.partition(":")
    family = FAMILIES.get(name)
    if family is None:
        raise UsageError(f"--popularity {text[:60]}: unknown family", hint=did_you_mean(name, FAMILIES))
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


@dataclass(frozen=True, slots=True)
class FunctionCounts:
    """The invocations of each function in a trace of Azure Functions; each adapter stands for many functions."""

    file: str
    counts: tuple[int, ...]

    def weights(self, names: Sequence[str]) -> tuple[int, ...]:
        """The functions are dealt out to the adapters in turn; the one with the most invocations is the first.

        Raises:
            UsageError: there are more adapters than functions.
        """
        if len(names) > len(self.counts):
            raise UsageError(f"{self.file} has {len(self.counts)} functions, but there are {len(names)} adapters")
        dealt = (sum(self.counts[place :: len(names)]) for place in range(len(names)))
        return integer_weights([Decimal(one) for one in sorted(dealt, reverse=True)])


AnyPopularity = Popularity | MeasuredPopularity | FunctionCounts

FUNCTIONS_2019 = ["HashOwner", "HashApp", "HashFunction", "Trigger"]
FUNCTIONS_2021 = ["app", "func", "end_timestamp", "duration"]
MOST_FUNCTIONS = 1_000_000
MOST_INVOCATIONS = 10**15


def read_function_counts(file: Path) -> FunctionCounts:
    """The invocations of each function, in the order in which a public trace of Azure Functions names them.

    The counts of a day (2019: ``invocations_per_function_md.anon.d01.csv``; a line for each function, with a column
    for each minute), or single invocations (2021; a line for each). Their formats are published with the data, at
    https://github.com/Azure/AzurePublicDataset (AzureFunctionsDataset2019.md, AzureFunctionsInvocationTrace2021.md).

    Raises:
        LoraCliError: the file cannot be read, or a line is wrong.
    """
    lines, counts = bounded_lines(file), dict[tuple[str, str], int]()
    header = next(lines, (0, b""))[1].decode(errors="replace").strip().split(",")
    by_minute = header[:4] == FUNCTIONS_2019 and len(header) > 4
    if not by_minute and header != FUNCTIONS_2021:
        wanted = f"{','.join(FUNCTIONS_2019)},1,... or {','.join(FUNCTIONS_2021)}"
        raise UsageError(f"{file}: must be counts of Azure Functions, with the columns {wanted}")
    for number, line in lines:
        fields = line.decode(errors="replace").strip().split(",")
        try:
            times = list(map(int, fields[4:])) if by_minute else [1]
        except ValueError:
            times = [-1]
        if len(fields) != len(header) or min(times) < 0 or sum(times) > MOST_INVOCATIONS:
            raise UsageError(f"{file}: line {number}: must have {len(header)} columns, and counts of invocations")
        key = (fields[1], fields[2]) if by_minute else (fields[0], fields[1])
        counts[key] = counts.get(key, 0) + sum(times)
        if len(counts) > MOST_FUNCTIONS:
            raise UsageError(f"{file}: line {number}: has more than {MOST_FUNCTIONS} functions")
    if not any(counts.values()):
        raise UsageError(f"{file}: it has no invocations")
    return FunctionCounts(str(file), tuple(counts.values()))


def read_popularity(text: str) -> AnyPopularity:
    """A family of ``popularity``, or a file: weights (``.json``), or counts of Azure Functions (``.csv``).

    Raises:
        UsageError: there is no such family, or the file is wrong.
        NotFound: there is no such file.
        MachineError: it cannot be read.
    """
    if text.endswith(".csv"):
        return read_function_counts(Path(text))
    if not text.endswith(".json"):
        return parse_popularity(text)
    data = read_bounded(Path(text), "--popularity", LARGEST_FILE)
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
