"""Adapters over names that transformers 5 changed: under today's names, as far as PEFT puts them there itself.

PEFT rewrites the names of factors (and of nothing else) by transformers' conversions of checkpoints, for the families
that have any; over all others an adapter with old names does nothing.

Sources: PEFT 0.21 ``utils/transformers_weight_conversion.py``, transformers 5 ``conversion_mapping.py``.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from lora_cli.core.adapter import Adapter, LoraPair
from lora_cli.core.keys import PAIR_PARTS, PEFT_PREFIX, Key

Renames = tuple[tuple[re.Pattern[str], str], ...]

_TOWER: Renames = (
    (re.compile(r"language_model\.model\.(?:model\.)?(?=.)"), "model.language_model."),
    (re.compile(r"model\.language_model\.model\.(?=.)"), "model.language_model."),
    (re.compile(r"(?:model\.)?vision_tower\.vision_model\.(?=.)"), "model.vision_tower."),
)
_WITHOUT_PREFIX: Renames = (
    *_TOWER,
    (re.compile(r"(?=(?:language_model\.(?!lm_head(?:\.|$))|vision_tower\.|multi_modal_projector\.).)"), "model."),
)

FAMILIES = frozenset({"gemma3"})
"""The model types with such conversions, of those that are known here."""

_FACTORS = PAIR_PARTS | {"lora_bias", "magnitude", "diag"}


def renamed(adapter: Adapter) -> Adapter:
    """``adapter`` with the modules of its factors under the names that PEFT loads them by."""
    keys = {name: _key(key) for name, key in adapter.keys.items()}
    if keys == adapter.keys:
        return adapter
    return replace(adapter, keys=keys, pairs=_pairs(adapter, keys))


def _key(key: Key) -> Key:
    if key.part not in _FACTORS or key.infixes or key.prefix not in {"", PEFT_PREFIX}:
        return key
    for pattern, replacement in _TOWER if key.prefix else _WITHOUT_PREFIX:
        if pattern.match(key.module):
            # With PEFT's name for it in memory, PEFT writes that name twice and then finds nothing.
            new = pattern.sub(replacement, key.module, count=1)
            return key if key.adapter_name else replace(key, module=new, prefix=PEFT_PREFIX)
    return key if key.prefix else replace(key, prefix=PEFT_PREFIX)


def _pairs(adapter: Adapter, keys: Mapping[str, Key]) -> dict[str, LoraPair]:
    pairs: dict[str, LoraPair] = {}
    for pair in adapter.pairs.values():
        factor = pair.a or pair.b
        module = keys[factor.name].module if factor is not None else pair.module
        pairs.setdefault(module, replace(pair, module=module))
    return pairs
