"""Run by vLLM's own Python: the bytes of every buffer that it makes for LoRA in a model, without weights or a server.

Reads one JSON object a line (``directory`` of a config.json, ``flags``), and writes one: ``bytes``.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from vllm.config import set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.model_manager import create_lora_manager
from vllm.model_executor.model_loader.utils import initialize_model

TOKENS = 32


def buffers(module: Any) -> Iterator[Any]:
    """The tensors of a layer with LoRA; one that shares another's memory comes too."""
    for name, value in vars(module).items():
        if "_stacked" in name:
            tensors = value if isinstance(value, tuple | list) else (value,)
            yield from (tensor for tensor in tensors if isinstance(tensor, torch.Tensor))


def slots(directory: str, flags: dict[str, Any], address: str) -> int:
    """Bytes of all buffers of the model at ``directory``, counted once for what shares memory."""
    config = EngineArgs(
        model=directory, skip_tokenizer_init=True, load_format="dummy", enforce_eager=True, enable_lora=True,
        dtype="bfloat16", max_model_len=TOKENS, max_num_batched_tokens=TOKENS, **flags,
    ).create_engine_config()  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    with set_current_vllm_config(config):
        if not torch.distributed.is_initialized():
            init_distributed_environment(1, 0, address, 0, "gloo")
            initialize_model_parallel(1)
        model = initialize_model(config)
        create_lora_manager(
            model, max_num_seqs=4, max_num_batched_tokens=TOKENS, vocab_size=config.model_config.get_vocab_size(),
            lora_config=config.lora_config, vllm_config=config, device=torch.device("cpu"),
        )  # fmt: skip
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for module in model.modules()
        for tensor in buffers(module)
    }
    return sum(storages.values())


def main() -> None:
    """Answers line by line."""
    for line in sys.stdin:
        case = json.loads(line)
        print("BYTES", slots(case["directory"], case["flags"], sys.argv[1]), flush=True)


if __name__ == "__main__":
    main()
