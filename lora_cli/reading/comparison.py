"""Two adapters compared: configs and headers always, values where the bytes of both are on this disk."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from lora_cli.core.adapter import Adapter
from lora_cli.core.base_model import BaseModel
from lora_cli.core.comparison import (
    Comparison,
    Distance,
    ModuleComparison,
    ModuleNorm,
    OtherAdapter,
    Side,
    compared,
    update_distance,
)
from lora_cli.core.config_changes import config_changes
from lora_cli.core.factors import Factors, factors_of
from lora_cli.core.likeness import judged
from lora_cli.reading.adapter import Opened
from lora_cli.reading.beside import compare_beside
from lora_cli.reading.distances import distance_of, norm_of
from lora_cli.reading.spectra import AT_ONCE


def compare(a: Opened, b: Opened, source: str, base: BaseModel | None, unread: str, hint: str = "") -> Comparison:
    """How ``b``, whose canonical reference is ``source``, differs from ``a``.

    ``base`` tells what the factors of experts are for. Where ``unread`` says why, no values are looked at.

    Raises:
        LoraCliError: what the sources raise.
    """
    ours, theirs = _factors(a.adapter, base), _factors(b.adapter, base)
    both = [module for module in a.adapter.pairs if module in b.adapter.pairs]
    alone = {
        "a": [module for module in a.adapter.pairs if module not in b.adapter.pairs],
        "b": [module for module in b.adapter.pairs if module not in a.adapter.pairs],
    }

    def distance(module: str) -> Distance | str:
        one, other = ours[module], theirs[module]
        if isinstance(one, str) or isinstance(other, str):
            return "; ".join(f"{side}: {why}" for side, why in (("A", one), ("B", other)) if isinstance(why, str))
        return unread or distance_of(a, b, one, other)

    def norm(place: Opened, factors: Factors | str) -> float | None:
        return None if isinstance(factors, str) or unread else norm_of(place, factors)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        distances = dict(zip(both, pool.map(distance, both), strict=True))
        only_a = list(pool.map(lambda module: norm(a, ours[module]), alone["a"]))
        only_b = list(pool.map(lambda module: norm(b, theirs[module]), alone["b"]))
    return judged(
        Comparison(
            with_=OtherAdapter(b.adapter.name, source, b.revision.id),
            word="unknown",
            reason="",
            distance=update_distance(None),
            fields=config_changes(a.adapter.config, b.adapter.config),
            only_a=tuple(map(ModuleNorm, alone["a"], only_a)),
            only_b=tuple(map(ModuleNorm, alone["b"], only_b)),
            modules=tuple(_module(a.adapter, b.adapter, module, ours, theirs, distances[module]) for module in both),
            tensors=compare_beside(a, b, values=not unread),
            unread=unread,
            hint=hint,
            total=None,
        )
    )


def _factors(adapter: Adapter, base: BaseModel | None) -> dict[str, Factors | str]:
    """Each module's factors, or why it has none that can be reckoned with."""
    factors, unreadable = factors_of(adapter, base)
    return {**{one.module: one for one in factors}, **{one.module: one.reason for one in unreadable}}


def _module(
    a: Adapter,
    b: Adapter,
    module: str,
    ours: Mapping[str, Factors | str],
    theirs: Mapping[str, Factors | str],
    distance: Distance | str,
) -> ModuleComparison:
    one = ours[module]
    return compared(
        module,
        module if isinstance(one, str) else one.path,
        _side(a, module, one),
        _side(b, module, theirs[module]),
        None if isinstance(distance, str) else distance,
        distance if isinstance(distance, str) else "",
    )


def _side(adapter: Adapter, module: str, factors: Factors | str) -> Side:
    pair = adapter.pairs[module]
    tensors = [one for one in (pair.a, pair.b) if one is not None]
    return Side(
        r=pair.rank if isinstance(factors, str) else factors.r,
        scaling=None if isinstance(factors, str) else factors.scaling,
        lora_A=pair.a.shape if pair.a is not None else None,
        lora_B=pair.b.shape if pair.b is not None else None,
        dtypes=tuple(dict.fromkeys(one.dtype for one in tensors)),
    )
