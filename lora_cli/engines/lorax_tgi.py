"""LoRAX at a7394ba (after 0.12) and TGI 3.3.7 (db931fcf), whose LoRA began as LoRAX's: what they make of an adapter.

Read in ``server/lorax_server`` and ``server/text_generation_server``; the loader of LoRAX was run.
"""

from lora_cli.core.finding import Outcome
from lora_cli.engines.profile import (
    ALONE,
    FACTORS,
    GENERIC_OUTCOMES,
    NUMBER_WRITTEN,
    OTHER_SERVER,
    OWN_NAME_RULES,
    RARELY_KNOWN,
    Engine,
    Grammar,
    Row,
    rejects,
    repair,
    serves_wrong,
)

LORA = "server/lorax_server/adapters/lora.py"
MODELS = "server/lorax_server/models/__init__.py"
SGMV = "server/lorax_server/utils/sgmv.py"
HUB = "server/lorax_server/utils/sources/hub.py"
TGI_WEIGHTS = "server/text_generation_server/utils/peft.py"

IGNORED = {
    "dora": "DoRA's magnitudes are not read",
    "alora": "the field is not read: the adapter is always active",
    "layer-replication": "the field is not read",
    "bias": "biases are not read",
    "lora-bias": "a bias on lora_B is not read",
    "kasa": "lora_diag is not read",
    "saved-vocabulary": "a saved embedding or head is not read",
    "saved-head": "a saved head is not read",
    "saved-other": "saved modules are not read",
    "trained-tokens": "trained tokens are not read",
    "init-changes-base": "the base's weights are not the ones that it was trained on",
}
"""Features that neither engine reads: an adapter is served as if it did not have them."""


def kernel_rank(rank: int, tp: int) -> int:
    """The rank that their kernels pad ``rank`` to: at least 8 for each shard, and above that a multiple of 16."""
    least = 8 * tp
    return least if rank <= least else -(-rank // 16) * 16


def _rows(engine: str) -> tuple[Row, ...]:
    """The rows of LoRAX and of TGI, which began as one code; ``engine`` is the target of a repair."""
    return (
        *(serves_wrong(feature, reason, LORA) for feature, reason in IGNORED.items()),
        serves_wrong("bdlora", "its blocks are treated as factors", LORA, "reasoned"),
        serves_wrong("qalora", "its groups are treated as inputs", LORA, "reasoned"),
        serves_wrong("arrow", "Arrow's routing is not read", LORA, "reasoned"),
        rejects("number-mistyped", "the division fails", LORA, "reasoned", repair(engine, NUMBER_WRITTEN)),
        rejects("not-lora", "the config is read by PEFT", LORA, mend='write "peft_type": "LORA"'),
        serves_wrong(
            "module-scales",
            "rank_pattern and alpha_pattern are not read, and all modules have the same scale",
            LORA,
            mend=repair(engine, "folds the scales into lora_B"),
        ),
        rejects(
            "layer-ranks",
            "a kind of module must have the same rank in all layers",
            LORA,
            mend=repair(engine, "pads all to the same rank"),
        ),
        serves_wrong(
            "padded-rank",
            "ranks are padded (to 8 per shard, or to a multiple of 16), and every kind of module after the first is "
            "scaled by the padded rank",
            SGMV,
            "run",
            repair(engine, "pads the rank and keeps the scale"),
        ),
        serves_wrong(
            "nothing-lands",
            "it loads, but the base is served",
            LORA,
            "run",
            repair(engine, "corrects the names", by_base=True),
        ),
        serves_wrong(
            "partly-lands",
            "the others are dropped silently",
            LORA,
            "run",
            repair(engine, "corrects the names, and adds zeros in layers that were not trained", by_base=True),
        ),
        serves_wrong("embedding", "LoRA on an embedding is not read", LORA),
        serves_wrong("experts-fused", "fused experts are not read", LORA),
        rejects("other-model", "it has no class for such a model", MODELS, "reasoned", OTHER_SERVER),
        serves_wrong("stray-weights", "every *.safetensors of the folder is read as the adapter's", HUB, mend=ALONE),
    )


GENERIC = {
    **GENERIC_OUTCOMES,
    **OWN_NAME_RULES,
    "LC205": Outcome.OK,
    "LC209": Outcome.OK,
    "LC208": Outcome.OK,
    **dict.fromkeys(("LC202", "LC301", "LC306", "LC314", "LC316", "LC321", "LC322"), Outcome.SERVES_WRONG),
}
"""Their kernels get bare pointers: no check of shapes was found."""

LEAVES = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj"})

LORAX = Engine(
    name="lorax",
    title="LoRAX",
    versions=("0.12",),
    rows=_rows("lorax"),
    grammars={
        "0.12": Grammar(prefix="required", parts=FACTORS, leaves=LEAVES | {"lm_head", "gate_up_proj"}, whole_types=True)
    },
    generic=GENERIC,
    unknown=RARELY_KNOWN | {"sharded"},
)

TGI = Engine(
    name="tgi",
    title="TGI",
    versions=("3.3.7",),
    rows=(
        *_rows("tgi"),
        rejects(
            "pickled",
            "TGI only reads safetensors",
            TGI_WEIGHTS,
            mend=repair("tgi", "converts it to safetensors without running it"),
        ),
    ),
    grammars={"3.3.7": Grammar(prefix="required", parts=FACTORS, leaves=LEAVES | {"c_proj", "c_fc"}, whole_types=True)},
    generic=GENERIC,
    unknown=RARELY_KNOWN | {"sharded"},
)
