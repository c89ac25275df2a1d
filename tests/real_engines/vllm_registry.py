"""Run by vLLM's own Python: what each class of its registry says of itself, as one JSON object.

It maps the name in ``architectures`` to whether the class supports LoRA, its ``embedding_modules``, whether it is for
more than text, and whether it keeps experts in one tensor.
"""

import importlib
import json

from vllm.model_executor.models import registry
from vllm.model_executor.models.interfaces import supports_lora, supports_multimodal


def main() -> None:
    """One line. A class that needs a package or a device that is not here is left out."""
    found = {}
    for architecture, (module, name, *_) in registry._VLLM_MODELS.items():
        where = module if module.startswith("vllm.") else f"vllm.model_executor.models.{module}"
        try:
            one = getattr(importlib.import_module(where), name)
        except Exception:
            continue
        found[architecture] = {
            "lora": bool(supports_lora(one)),
            "embeddings": sorted(getattr(one, "embedding_modules", None) or ()),
            "multimodal": bool(supports_multimodal(one)),
            "fused_experts": bool(getattr(one, "is_3d_moe_weight", False)),
        }
    print("CLASSES", json.dumps(found))


if __name__ == "__main__":
    main()
