"""What a tier may hold."""

from lora_cli.core.frozen import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """What a tier may hold at once: ``items`` values, and ``max_bytes`` together (None: only ``items`` counts)."""

    items: int
    max_bytes: int | None = None

    def fits(self, items: int, used_bytes: int, weight: int) -> bool:
        """Whether there is room for ``weight`` bytes more beside so many items of so many bytes."""
        return items < self.items and (self.max_bytes is None or used_bytes + weight <= self.max_bytes)

    def share(self, weight: int) -> float:
        """How much of the tier one adapter takes: its part of the items or of the bytes, whichever is larger."""
        of_bytes = weight / self.max_bytes if self.max_bytes else 0.0
        return max(of_bytes, 1 / max(1, self.items))
