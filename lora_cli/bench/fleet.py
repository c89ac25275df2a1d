"""What is simulated besides the requests: the adapters' bytes, the two tiers, and the ways into them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_cli.bench.links import BYTES_PER_RANK, Links
from lora_cli.bench.ranks import Ranks
from lora_cli.bench.report import AdapterBytes
from lora_cli.tiers.budget import Budget


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
