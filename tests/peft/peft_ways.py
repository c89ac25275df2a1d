"""How the real PEFT puts a LoRA on a model: most by ``get_peft_model`` alone, some after looking at data or gradients.

A way takes the model and the config, and gives the adapted model and its adapter's name.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

Way = Callable[[Any, Any, Path], tuple[Any, str]]
"""Model, config and a folder for what PEFT wants to have on disk beforehand."""


def plain(model: Any, config: Any, scratch: Path) -> tuple[Any, str]:
    from peft import get_peft_model

    return get_peft_model(model, config), "default"


def _batch(model: Any) -> dict[str, Any]:
    import torch

    tokens = torch.arange(64).reshape(4, 16) % model.config.vocab_size
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def eva(model: Any, config: Any, scratch: Path) -> tuple[Any, str]:
    """EVA shares the ranks out anew by what it saw, and writes them as ``rank_pattern`` and ``alpha_pattern``."""
    from peft import get_peft_model
    from peft.tuners.lora import initialize_lora_eva_weights

    batch = _batch(model)
    adapted = get_peft_model(model, config)
    initialize_lora_eva_weights(adapted, [batch] * 4, show_progress_bar=False)
    return adapted, "default"


def corda(model: Any, config: Any, scratch: Path) -> tuple[Any, str]:
    from peft import get_peft_model
    from peft.tuners.lora.corda import preprocess_corda

    batch = _batch(model)

    def run() -> None:
        for row in zip(*batch.values(), strict=True):  # CorDA takes one text at a time
            model(**{name: one[None] for name, one in zip(batch, row, strict=True)})

    preprocess_corda(model, config, run_model=run)
    return get_peft_model(model, config), "default"


def lora_ga(model: Any, config: Any, scratch: Path) -> tuple[Any, str]:
    from peft import get_peft_model
    from peft.tuners.lora.loraga import preprocess_loraga

    batch = _batch(model)

    def step() -> None:
        model(**batch, labels=batch["input_ids"]).loss.backward()

    preprocess_loraga(model, config, train_step=step)
    return get_peft_model(model, config), "default"


def loftq(model: Any, config: Any, scratch: Path) -> tuple[Any, str]:
    """LoftQ's config over factors with the default values.

    PEFT computes LoftQ's values with bitsandbytes on a CUDA device and nowhere else (``utils/loftq_utils.py``). The
    names, shapes, ranks and the config of what it writes do not depend on the values.
    """
    from peft import get_peft_model

    config.init_lora_weights = True
    adapted = get_peft_model(model, config)
    config.init_lora_weights = "loftq"
    return adapted, "default"


def on_gptq(model: Any, config: Any, scratch: Path) -> tuple[Any, str]:
    """The config on layers that PEFT takes for GPTQ's.

    PEFT's own layer for a GPTQ base wraps the linear layers as they are: quantised ones need gptqmodel's kernels, and
    of them that layer reads the widths alone.
    """
    from peft import get_peft_model
    from peft.tuners.lora.gptq import GPTQLoraLinear
    from torch import nn

    config._register_custom_module({nn.Linear: GPTQLoraLinear})
    return get_peft_model(model, config), "default"


def arrow(model: Any, config: Any, scratch: Path) -> tuple[Any, str]:
    """Arrow's router over two adapters of its own, which are written with the same config but for the routing."""
    from peft import LoraConfig, create_arrow_model, get_peft_model

    paths = [scratch / "experts" / str(i) for i in range(2)]
    options = {"target_modules": config.target_modules, "r": config.r, "lora_alpha": config.lora_alpha}
    for path in paths:
        adapted = get_peft_model(model, LoraConfig(**options))
        adapted.save_pretrained(path)
        model = adapted.unload()
    routed = create_arrow_model(model, [str(path) for path in paths], config.arrow_config)
    return routed, "arrow_router"


def as_plain_lora(model: Any, config: Any, scratch: Path) -> tuple[Any, str]:
    """An adapter that changed the base when it began, written as one for the base as it was: with twice the rank."""
    from peft import PeftModel, get_peft_model

    adapted = get_peft_model(model, config)
    init, config.init_lora_weights = config.init_lora_weights, True
    adapted.save_pretrained(scratch / "initial")
    config.init_lora_weights = init
    adapted.save_pretrained(scratch / "plain", path_initial_model_for_weight_conversion=str(scratch / "initial"))
    return PeftModel.from_pretrained(adapted.unload(), scratch / "plain"), "default"


def with_megatron(model: Any, config: Any, scratch: Path) -> tuple[Any, str]:
    """Megatron's config on an adapter of common layers.

    PEFT imports megatron.core where the config is set, which needs a CUDA device and its process groups; to layers
    that are not Megatron's it does nothing more.
    """
    from peft import get_peft_model

    megatron, config.megatron_config = config.megatron_config, None
    adapted = get_peft_model(model, config)
    config.megatron_config = megatron
    return adapted, "default"
