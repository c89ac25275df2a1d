"""TGI 3.3.7 (db931fcf): what it makes of an adapter. Its LoRA began as LoRAX's; only the differences are here."""

from lora_cli.engines.fixes import repair
from lora_cli.engines.lorax import GENERIC, UNREAD, rows
from lora_cli.engines.profile import FACTORS, Engine, Grammar, rejects

WEIGHTS = "server/text_generation_server/utils/peft.py"

LEAVES = frozenset(
    {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "c_proj", "c_fc"}
)

ENGINE = Engine(
    name="tgi",
    title="TGI",
    versions=("3.3.7",),
    rows=(
        *rows("tgi"),
        rejects(
            "pickled",
            "it only reads safetensors",
            WEIGHTS,
            mend=repair("tgi", "converts it to safetensors without running it"),
        ),
    ),
    grammars={"3.3.7": Grammar(prefix="required", parts=FACTORS, leaves=LEAVES, whole_types=True)},
    generic=GENERIC,
    unread=UNREAD,
)
