"""What a tier may hold."""

from dataclasses import dataclass


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
        of_items = 1 / (self.items or 1)
        if self.max_bytes is None or weight <= of_items * self.max_bytes:
            return of_items
        return weight / (self.max_bytes or 1)
