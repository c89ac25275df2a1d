"""Two adapters compared: configs and headers always, values where the bytes of both are on this disk."""

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

    def in_both(module: str) -> ModuleComparison:
        one, other = ours[module], theirs[module]
        if isinstance(one, str) or isinstance(other, str):
            reasons = (f"{side}: {why}" for side, why in (("A", one), ("B", other)) if isinstance(why, str))
            found: Distance | str = "; ".join(reasons)
        else:
            found = unread or distance_of(a, b, one, other)
        path = module if isinstance(one, str) else one.path
        return compared(module, path, _side(a.adapter, module, one), _side(b.adapter, module, other), found)

    def norm(opened: Opened, factors: Factors | str) -> float | None:
        return None if isinstance(factors, str) or unread else norm_of(opened, factors)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        modules = tuple(pool.map(in_both, [module for module in a.adapter.pairs if module in theirs]))
        in_a = [module for module in a.adapter.pairs if module not in theirs]
        in_b = [module for module in b.adapter.pairs if module not in ours]
        only_a = tuple(pool.map(lambda module: ModuleNorm(module, norm(a, ours[module])), in_a))
        only_b = tuple(pool.map(lambda module: ModuleNorm(module, norm(b, theirs[module])), in_b))
    return judged(
        Comparison(
            with_=OtherAdapter(b.adapter.name, source, b.revision.id),
            word="unknown",
            reason="",
            distance=update_distance(None),
            fields=config_changes(a.adapter.config, b.adapter.config),
            only_a=only_a,
            only_b=only_b,
            modules=modules,
            tensors=compare_beside(a, b, values=not unread),
            unread=unread,
            hint=hint,
        )
    )


def _factors(adapter: Adapter, base: BaseModel | None) -> dict[str, Factors | str]:
    """Each module's factors, or why it has none that can be reckoned with."""
    factors, unreadable = factors_of(adapter, base)
    return {**{one.module: one for one in factors}, **{one.module: one.reason for one in unreadable}}


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
