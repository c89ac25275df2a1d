"""A plugin of vLLM, for its own Python: its worker writes what it loads, and which requests it begins.

``install`` writes the package that vLLM finds on ``PYTHONPATH``. Each line of the file ``$VLLM_HITS`` is ``hit NAME``
or ``miss NAME`` for a request that enters the batch, ``load NAME`` for an adapter that is read into memory, or
``activate NAME`` for one that is put into a slot. The second of two requests that enter together is a hit.

There are more activations than misses: vLLM touches the adapters of a batch in the order of a set, and a new one can
take the slot of one in the batch, which then takes another (0.32).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAME = "vllm_hits"


def install(folder: Path) -> dict[str, str]:
    """Write the plugin into ``folder``; gives the environment in which vLLM loads it, and no other plugin."""
    about = folder / f"{NAME}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{NAME} = {NAME}:register\n")
    (folder / f"{NAME}.py").write_text(Path(__file__).read_text())
    return {"PYTHONPATH": str(folder), "VLLM_PLUGINS": NAME, "VLLM_HITS": str(folder / "hits.txt")}


def register() -> None:
    """Called by vLLM in each of its processes; only the worker uses what is wrapped here."""
    from vllm.lora.model_manager import LRUCacheLoRAModelManager
    from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    if hasattr(GPUModelRunner, NAME):
        return
    setattr(GPUModelRunner, NAME, True)
    names: dict[int, str] = {}

    def begun(runner: Any, output: Any, *_more: Any) -> None:
        active = set(runner.lora_manager._adapter_manager._active_adapters) if output.scheduled_new_reqs else set()
        for new in output.scheduled_new_reqs:
            if new.lora_request is not None:
                _tell("hit" if new.lora_request.lora_int_id in active else "miss", new.lora_request.lora_name)
                active.add(new.lora_request.lora_int_id)

    def loaded(_worker: Any, request: Any) -> None:
        names[request.lora_int_id] = request.lora_name
        _tell("load", request.lora_name)

    def activated(manager: Any, number: int) -> None:
        if number not in manager._active_adapters and number in names:  # vLLM also warms up with adapters of its own
            _tell("activate", names[number])

    _wrap(GPUModelRunner, "execute_model", begun)
    _wrap(LRUCacheWorkerLoRAManager, "_load_adapter", loaded)
    _wrap(LRUCacheLoRAModelManager, "activate_adapter", activated)


def _wrap(owner: Any, name: str, before: Callable[..., None]) -> None:
    whole = getattr(owner, name)

    def wrapper(*args: Any, **named: Any) -> Any:
        before(*args, **named)
        return whole(*args, **named)

    setattr(owner, name, wrapper)


def _tell(event: str, name: str) -> None:
    with Path(os.environ["VLLM_HITS"]).open("a") as file:
        file.write(f"{event} {name}\n")
