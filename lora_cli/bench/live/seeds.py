"""What several seeds say together: a mean, and the interval that the true one lies in 95 times of 100."""

from collections.abc import Mapping, Sequence
from math import isfinite, sqrt
from statistics import fmean, stdev

from lora_cli.bench.live.numbers import COUNTS

Z = 1.959963984540054
"""The normal distribution's quantile at 0.975."""

T = (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139)
"""Student's t at 0.975 for 1 to 10 degrees of freedom."""

RATES = {
    "request_throughput": ("completed",),
    "output_throughput": ("total_output_tokens",),
    "total_token_throughput": ("total_input_tokens", "total_output_tokens"),
}
MOST = ("max_output_tokens_per_s", "max_concurrent_requests")

Numbers = Mapping[str, float | None]


def t_quantile(freedom: int) -> float:
    """Student's t at 0.975: 95 % of it lie between this and its negative.

    Beyond 10 degrees of freedom by the expansion of Abramowitz and Stegun, 26.7.5, to four digits.
    """
    if freedom <= len(T):
        return T[freedom - 1]
    return (
        Z
        + (Z**3 + Z) / (4 * freedom)
        + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)
        + (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / (384 * freedom**3)
    )


def together(runs: Sequence[Numbers]) -> dict[str, float | None]:
    """Every metric over all runs: counts and seconds added up, rates by these, and means of all else."""
    found = {name: _one(name, [run[name] for run in runs]) for name in runs[0]} if runs else {}
    for name, counts in RATES.items():
        if duration := found.get("duration"):
            found[name] = sum(found[count] or 0 for count in counts) / duration
    return found


def intervals(runs: Sequence[Numbers]) -> dict[str, float]:
    """Half the width of the 95 % interval of each metric that at least two runs know, and none as infinite."""
    found = {}
    for name in runs[0] if runs else ():
        values = [value for value in (run[name] for run in runs) if value is not None]
        if name not in COUNTS and len(values) > 1 and all(map(isfinite, values)):
            found[name] = t_quantile(len(values) - 1) * stdev(values) / sqrt(len(values))
    return found


def _one(name: str, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    if name in COUNTS:
        return sum(known)
    return max(known) if name in MOST else fmean(known)
