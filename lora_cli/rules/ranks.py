"""The highest rank of an adapter, as the slots of an engine count it."""

from lora_cli.core.adapter import Adapter
from lora_cli.core.finding import Location
from lora_cli.core.keys import without_wrappers
from lora_cli.core.text import cut


def highest_rank(adapter: Adapter) -> tuple[str, int, Location] | None:
    """What has the highest rank, that rank, and where it says so; None where neither config nor tensors have any."""
    config = adapter.config
    said: list[tuple[int, str, Location]] = []
    if config is not None:
        pattern = max(config.rank_pattern, key=lambda key: config.rank_pattern[key], default=None)
        if pattern is not None:
            said.append((config.rank_pattern[pattern], f"rank_pattern {cut(pattern)}", Location(config.file, "r")))
        said.append((config.r, "r", Location(config.file, "r")))
    plain = (module for module in adapter.pairs if not is_fused(adapter, module))
    module = max(plain, key=lambda module: adapter.pairs[module].rank or 0, default=None)
    if module is not None:
        said.append((adapter.pairs[module].rank or 0, module, Location(adapter.weight_files[0], cut(module))))
    if not said:
        return None
    rank, where, at = max(said, key=lambda one: one[0])
    return where, rank, at


def is_fused(adapter: Adapter, module: str) -> bool:
    """Whether these are the factors of experts in one tensor, which have ``r`` rows for each."""
    config = adapter.config
    if config is None or not config.target_parameters:
        return False
    return without_wrappers(module).rpartition(".")[2] == "experts"
