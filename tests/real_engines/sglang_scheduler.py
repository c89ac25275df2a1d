"""SGLang's own server, with a scheduler that has no model: it runs in the environment of SGLang.

Everything but the scheduler is SGLang's: the plugin loader, the hooks, the HTTP server, the tokenizer manager and the
messages between processes. The scheduler loads and unloads adapters with SGLang's ``LoRAManager``, whose memory pool
only knows the largest rank, and answers each prompt with the path and id of its adapter.
"""

import json
import logging
import os
import signal
import sys
import time
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import torch
import zmq
from sglang.srt.configs.load_config import LoadConfig
from sglang.srt.lora.lora_manager import LoRAManager
from sglang.srt.managers import io_struct
from sglang.srt.managers.io_struct import BatchStrOutput, sock_recv, sock_send
from sglang.srt.managers.tp_worker import BaseTpWorker
from sglang.srt.plugins import load_plugins
from sglang.srt.runtime_context import SpawnRanks, get_lora, get_model, publish
from sglang.srt.server_args import prepare_server_args
from sglang.srt.utils.hf_transformers_utils import get_config
from sglang.srt.utils.network import get_zmq_socket

SLOW = 1.0
"""Seconds of a load, for names that begin with ``slow``."""


def manager_without_model() -> Any:
    """SGLang's manager of adapters, without a model or slots on a device."""
    config = get_config(get_model().model_path, trust_remote_code=False)
    manager = LoRAManager.__new__(LoRAManager)
    manager.device, manager.base_hf_config, manager.base_model = torch.device("cpu"), config, torch.nn.Module()
    manager.load_config, manager.lora_backend = LoadConfig(), SimpleNamespace()
    manager.max_loras_per_batch, manager.num_pinned_loras = get_lora().max_loras_per_batch, 0
    manager.attn_dp_enabled, manager.speculative_algorithm = False, None
    manager.configs, manager.loras, manager.lora_refs = {}, {}, {}
    manager.memory_pool = SimpleNamespace(
        can_support=lambda adapter: adapter.r <= get_lora().max_lora_rank, remove_lora=lambda _id: None
    )
    manager._notify_lora_slots_updated = lambda _slots: None
    return manager


class Worker(BaseTpWorker):  # type: ignore[misc]
    """SGLang's worker, as far as it loads and unloads adapters."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    @property
    def model_runner(self) -> Any:
        return self._manager

    def forward_batch_generation(self, forward_batch: Any) -> Any:
        raise NotImplementedError


class Scheduler:
    """Answers the tokenizer manager. The file ``SGLANG_TEST_LOG`` has what was loaded and unloaded, a line each."""

    def __init__(self, port_args: Any) -> None:
        context = zmq.Context(1)
        self.asked = get_zmq_socket(context, zmq.PULL, port_args.scheduler_input_ipc_name, False)
        self.answers = get_zmq_socket(context, zmq.PUSH, port_args.tokenizer_ipc_name, False)
        self.lora = manager_without_model()
        self.worker = Worker(self.lora)
        self.log = Path(os.environ["SGLANG_TEST_LOG"])

    def run(self) -> None:
        while True:
            asked = sock_recv(self.asked)
            answer = self.answer(asked)
            if answer is not None:
                sock_send(self.answers, answer)

    def answer(self, asked: Any) -> Any:
        kind = type(asked).__name__
        if kind in {"LoadLoRAAdapterReqInput", "UnloadLoRAAdapterReqInput"}:
            if asked.lora_name.startswith("slow"):
                time.sleep(SLOW)
            verb = {"L": "load", "U": "unload"}[kind[0]] + "_lora_adapter"
            result = getattr(self.worker, verb)(asked)
            with self.log.open("a") as log:
                log.write(json.dumps([verb, asked.lora_name, result.success]) + "\n")
            return result
        if kind == "BatchTokenizedGenerateReqInput":
            return self.texts(list(asked.batch))
        if kind == "TokenizedGenerateReqInput":
            return self.texts([asked])
        if kind == "GetInternalStateReq":
            return io_struct.GetInternalStateReqOutput(internal_state={})
        return None

    def texts(self, asked: list[Any]) -> Any:
        """Each prompt's answer: the path of its adapter, as the scheduler knows it by its id."""
        refs = [self.lora.lora_refs[one.lora_id] if one.lora_id else None for one in asked]
        texts = [f"{ref.lora_path} {ref.lora_id}" if ref else "base" for ref in refs]
        return BatchStrOutput(**columns(len(asked)), rids=[one.rid for one in asked], output_strs=texts)


def columns(rows: int) -> dict[str, Any]:
    """The other columns of an answer of one token to each prompt."""
    ours = {"rids", "http_worker_ipcs", "output_strs"}
    needed = [one.name for one in msgspec.structs.fields(BatchStrOutput) if one.required and one.name not in ours]
    ones = {"prompt_tokens": 1, "completion_tokens": 1, "reasoning_tokens": 0, "cached_tokens": 0}
    made = {name: [ones[name]] * rows if name in ones else None for name in needed}
    return {
        **made,
        "output_ids": [array("q", [1])] * rows,
        "finished_reasons": [{"type": "length", "length": 1}] * rows,
        "retraction_counts": [0] * rows,
    }


def run_scheduler(
    server_args: Any, port_args: Any, gpu_id: int, tp_rank: int, _pp: int, _dp: Any, ready: Any, **_: Any
) -> None:
    """In place of SGLang's ``run_scheduler_process``, whose handling of an exception this copies."""
    load_plugins()
    publish(server_args, role="scheduler", ranks=SpawnRanks(world_rank=tp_rank, gpu_id=gpu_id))
    logging.basicConfig(level="INFO")
    parent = os.getppid()
    try:
        scheduler = Scheduler(port_args)
        ready.send({"status": "ready", "max_total_num_tokens": 4096, "max_req_input_len": 4096})
        scheduler.run()
    except Exception:
        logging.exception("Scheduler hit an exception")
        os.kill(parent, signal.SIGQUIT)


def main() -> None:
    """``python -m sglang.launch_server`` with this scheduler."""
    load_plugins()
    from sglang.srt.entrypoints.http_server import launch_server

    launch_server(prepare_server_args(sys.argv[1:]), run_scheduler_process_func=run_scheduler)
