"""The highest rank of an adapter, as the slots of an engine count it."""

from lora_cli.core.adapter import Adapter
from lora_cli.core.finding import Location
from lora_cli.rules.case import Case
from lora_cli.rules.wording import clip


def highest_rank(case: Case) -> tuple[str, int, Location] | None:
    """What has the highest rank, that rank, and where it says so; None where neither config nor tensors have any."""
    config, file = case.adapter.config, case.weights_file
    said: dict[str, tuple[int, Location]] = {}
    if config is not None:
        patterns = {f"rank_pattern {clip(pattern)}": rank for pattern, rank in config.rank_pattern.items()}
        said = {where: (rank, Location(config.file, "r")) for where, rank in [*patterns.items(), ("r", config.r)]}
    for module, pair in case.adapter.pairs.items():
        if not is_fused(case.adapter, module):
            said[module] = pair.rank or 0, Location(file, clip(module))
    if not said:
        return None
    where, (rank, at) = max(said.items(), key=lambda one: one[1][0])
    return where, rank, at


def is_fused(adapter: Adapter, module: str) -> bool:
    """Whether these are the factors of experts in one tensor, which have ``r`` rows for each."""
    stem = module
    while stem.endswith(".base_layer"):
        stem = stem.removesuffix(".base_layer")
    config = adapter.config
    return config is not None and bool(config.target_parameters) and stem.rpartition(".")[2] == "experts"
