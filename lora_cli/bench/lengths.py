"""How many tokens a request has: a number, or each of a range as likely as every other."""

from dataclasses import dataclass

from lora_cli.bench.draws import Draws
from lora_cli.errors import UsageError

MOST_TOKENS = 10_000_000


@dataclass(frozen=True, slots=True)
class Lengths:
    """From the least to the most, both included."""

    least: int
    most: int

    def drawn(self, draws: Draws) -> int:
        """One of them."""
        return self.least if self.least == self.most else self.least + draws.below(self.most - self.least + 1)


def parse_lengths(text: str, flag: str) -> Lengths:
    """``128``, or ``8-512``.

    Raises:
        UsageError: it is neither.
    """
    first, dash, last = text.partition("-")
    numbers = [first, last] if dash else [first, first]
    if all(one.isascii() and one.isdecimal() and len(one) <= 8 for one in numbers):
        least, most = map(int, numbers)
        if least <= most <= MOST_TOKENS and most:
            return Lengths(least, most)
    raise UsageError(f"{flag} {text[:60]}: must be a number of tokens, or a range", hint=f"{flag} 128, {flag} 8-512")
