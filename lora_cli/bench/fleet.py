"""What is simulated besides the requests: the adapters' ranks and bytes, the two tiers, and the ways into them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import accumulate

from lora_cli.bench.draws import Draws
from lora_cli.bench.link_model import BYTES_PER_RANK, Links
from lora_cli.bench.report import AdapterBytes
from lora_cli.errors import UsageError
from lora_cli.tiers.budget import Budget

MOST_RANKS, LARGEST_RANK = 100, 100_000
SHARE_SCALE = 10**12


@dataclass(frozen=True, slots=True)
class Ranks:
    """Each rank with its part of all adapters; the parts need not add up to 1."""

    shares: tuple[tuple[int, Decimal], ...]

    def of(self, names: Sequence[str], seed: int) -> dict[str, int]:
        """Each adapter's rank: chance, by its name and the seed alone, so that a trace replayed finds it again."""
        upto = list(accumulate(int(share * SHARE_SCALE) for _, share in self.shares))
        return {name: self.shares[Draws.apart(f"rank {name}", seed).of(upto)][0] for name in names}


def parse_ranks(text: str) -> Ranks:
    """``8:.4,16:.4,64:.2``; a share that is left out is 1.

    Raises:
        UsageError: it is none.
    """
    found = []
    for word in text.split(",")[: MOST_RANKS + 1]:
        rank, colon, share = word.partition(":")
        try:
            part = Decimal(share) if colon else Decimal(1)
            good = rank.isascii() and rank.isdecimal() and len(share) <= 20
            if not (good and len(rank) < 7 and 1 <= int(rank) <= LARGEST_RANK and Decimal("1e-9") <= part <= 1_000_000):
                raise _wrong(text)
        except InvalidOperation as error:
            raise _wrong(text) from error
        found.append((int(rank), part))
    if len(found) > MOST_RANKS:
        raise _wrong(text)
    return Ranks(tuple(found))


def _wrong(text: str) -> UsageError:
    return UsageError(f"--ranks {text[:60]}: must be ranks and their shares", hint="--ranks 8:.4,16:.4,64:.2")


@dataclass(frozen=True, slots=True)
class Fleet:
    """``sizes`` are bytes by adapter; ``gpu`` and ``cpu`` are what slots and memory hold."""

    sizes: Mapping[str, int]
    gpu: Budget
    cpu: Budget
    links: Links = Links()

    def put_ms(self, name: str) -> float:
        """Milliseconds from memory into a slot."""
        return self.links.gpu.load_ms(self.sizes[name])

    def read_ms(self, name: str) -> float:
        """Milliseconds from disk into memory."""
        return self.links.disk.load_ms(self.sizes[name])

    def adapter_bytes(self) -> AdapterBytes:
        """How large the adapters are."""
        sizes = self.sizes.values()
        return AdapterBytes(sum(sizes), max(sizes, default=0), min(sizes, default=0))

    @property
    def equal(self) -> bool:
        """Whether all adapters are of one size, so that only their number counts."""
        return len(set(self.sizes.values())) <= 1


def sized(names: Sequence[str], ranks: Ranks, seed: int, bytes_per_rank: int = BYTES_PER_RANK) -> dict[str, int]:
    """Bytes of each adapter: its rank times ``bytes_per_rank``."""
    return {name: rank * bytes_per_rank for name, rank in ranks.of(names, seed).items()}
