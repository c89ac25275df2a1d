"""SGLang 0.5.23: what it makes of an adapter.

Read in ``sglang/srt/lora``, and run on adapters that PEFT wrote. Much that it takes at load fails in the first batch
that needs it, and nothing between there and the scheduler's process catches that: the server goes down.
"""

from lora_cli.engines.profile import Engine, Flags, SlotLayout
from lora_cli.finding import Outcome

SLOTS = SlotLayout(
    flags=Flags(
        launch="python -m sglang.launch_server --model-path {base}",
        enable="--enable-lora",
        rank="--max-lora-rank",
        slots="--max-loras-per-batch",
        memory="--max-loaded-loras",
        targets="--lora-target-modules",
        adapters="--lora-paths",
        keys=("lora_name", "lora_path"),
        revision="--revision",
        pins=True,
        strict="--lora-strict-loading",
    ),
    choices=frozenset(
        {
            *("q_proj", "k_proj", "v_proj", "o_proj", "q_a_proj", "kv_a_proj_with_mqa", "q_b_proj", "kv_b_proj"),
            *("wq_b", "wk", "weights_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj"),
            *("embed_tokens", "lm_head", "qkvr", "wo_ud"),
        }
    ),
    base_slots=1,
)
"""A request for the base alone takes a slot, too."""

ENGINE = Engine(
    name="sglang",
    title="SGLang",
    versions=("0.5.23",),
    by_layer=True,
    unexpected=Outcome.CRASHES,
    beyond=Outcome.REJECTS,
    slots=SLOTS,
)
