"""Headers of safetensors weights that are as much work to judge as their size allows."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

PREFIX = "base_model.model."
MIB = 1 << 20
Tensor = tuple[str, str, tuple[int, ...], int]
"""Name, dtype, shape and bytes."""

CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "tiny/base",
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["q_proj", "gate_proj", "up_proj", "down_proj"],
}

QWEN3_235B = {
    "model_type": "qwen3_moe",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "num_hidden_layers": 94,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}


def header(size: int, tensors: Iterator[Tensor], most: int = 1 << 62) -> tuple[str, int]:
    """As many tensors as ``size`` bytes of JSON take; and the bytes of their values."""
    entries: list[str] = []
    used = end = 0
    for name, dtype, shape, nbytes in itertools.islice(tensors, most):
        key = f'"{name}"' if name.isascii() else json.dumps(name)
        entry = f'{key}:{{"dtype":"{dtype}","shape":{[*shape]},"data_offsets":[{end},{end + nbytes}]}}'
        if used + len(entry) + 16 > size:
            break
        entries.append(entry)
        used, end = used + len(entry) + 1, end + nbytes
    return f"{{{','.join(entries)}}}", end


def write(folder: Path, text: str, nbytes: int = 0) -> Path:
    """An adapter with that header; its values are zeros, and take no room on the disk."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    data = text.encode()
    data += b" " * (-len(data) % 8)
    with (folder / "adapter_model.safetensors").open("wb") as stream:
        stream.write(len(data).to_bytes(8, "little") + data)
        stream.truncate(8 + len(data) + nbytes)
    return folder


def factor(module: str, number: int, *between: str) -> str:
    """The name of A or B of a module."""
    return ".".join([PREFIX + module, f"lora_{'AB'[number % 2]}", *between, "weight"])


def experts(layers: int, each: int) -> Iterator[Tensor]:
    """What PEFT writes for experts one by one, with ranks of 8."""
    for layer, expert, part in itertools.product(range(layers), range(each), ("gate", "up", "down")):
        module = f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj"
        d_in, d_out = (1536, 4096) if part == "down" else (4096, 1536)
        yield factor(module, 0), "BF16", (8, d_in), 16 * d_in
        yield factor(module, 1), "BF16", (d_out, 8), 16 * d_out


def of(make: Callable[[int, str], Tensor], size: int) -> Iterator[Tensor]:
    """A tensor for each number, with names so long that ``MOST_TENSORS`` of them fill a header of ``size`` bytes."""
    pad = "p" * max(0, size // 150_000 - 115)
    return (make(number, pad) for number in itertools.count())


TENSORS: dict[str, Callable[[int, str], Tensor]] = {
    "empty": lambda i, p: (f"{p}{i}", "U8", (0,), 0),
    "empty factors": lambda i, p: (factor(f"{p}{i // 2}", i), "F32", (0, 8) if i % 2 == 0 else (8, 0), 0),
    "A without B": lambda i, p: (factor(f"{p}{i}", 0), "U8", (0,), 0),
    "a shape for each": lambda i, p: (factor(f"{p}{i}", 0), "U8", (0, i), 0),
    "a name in memory for each": lambda i, p: (factor(f"{p}{i}", 0, f"n{i}"), "U8", (0,), 0),
    "wrappers": lambda i, p: (factor(f"_orig_mod.{p}{i}._orig_mod", 0), "U8", (0,), 0),
    "layers that no base has": lambda i, p: (factor(f"model.layers.{i // 2}.{p}.q_proj", i), "F16", (1, 1), 2),
    "saved modules": lambda i, p: (f"{PREFIX}{p}{i}.weight", "I8", (0,), 0),
    "embeddings": lambda i, p: (f"{PREFIX}{p}{i}.lora_embedding_A", "U8", (0, i), 0),
    "trained tokens": lambda i, p: (f"{PREFIX}{p}{i}.token_adapter.trainable_tokens_delta", "U8", (0,), 0),
    "dots": lambda i, p: (f"{'a.' * 480}{i}.lora_A.weight", "U8", (0,), 0),
    "letters of four bytes": lambda i, p: (f"\U0001f600{p}{i}.lora_A.weight", "U8", (0,), 0),
}
"""What an attacker may fill a header with, by what it is."""

TEXTS: dict[str, Callable[[int], str]] = {
    "lists": lambda n: '{"a":{"x":[' + "[]," * (n // 3 - 9) + "[]]}}",
    "lists in lists": lambda n: '{"__metadata__":{"a":' + "[" * (n - 40) + "}}",
    "objects in objects": lambda n: '{"__metadata__":' + '{"a":' * (n // 6 - 9) + "1" + "}" * (n // 6 - 9) + "}",
    "metadata": lambda n: '{"__metadata__":{' + ",".join(f'"k{i:07}":"v"' for i in range(n // 15)) + "}}",
    "one long value": lambda n: '{"__metadata__":{"a":"' + "x" * (n - 40) + '"}}',
    "one long name": lambda n: '{"' + "ab." * (n // 3 - 40) + '":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
    "the same name": lambda n: (
        "{" + ",".join(['"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'] * (n // 60)) + "}"
    ),
    "dimensions": lambda n: '{"a":{"dtype":"U8","shape":[' + "0," * (n // 2 - 50) + '0],"data_offsets":[0,0]}}',
    "blanks": lambda n: "{" + " " * (n - 2) + "}",
}
"""The same as text."""
