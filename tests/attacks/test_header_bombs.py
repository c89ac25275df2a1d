"""Headers as large as they may be, filled with the most work: judged in time, within 300 MB of memory, or 600 MB."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lora_cli.adapter.safetensors import MOST_TENSORS
from lora_cli.refs.adapter_files import MOST_HEADER
from tests.attacks.measured import bounded, words
from tests.making import write_base
from tests.slow import slowly

pytestmark = pytest.mark.slow

MIB = 1 << 20
SMALL, LARGE = 4 * MIB - 64, MOST_HEADER - 64
PEAK_MB = {SMALL: 300, LARGE: 600}
LONGEST_OUTPUT = 200_000
PREFIX = "base_model.model."
ENGINES = [word for engine in ("vllm", "sglang", "peft") for word in ("--engine", engine)]
CONFIG = {
    **{"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny/base", "r": 8, "lora_alpha": 16},
    **{"target_modules": ["q_proj", "gate_proj", "up_proj", "down_proj"]},
}
QWEN3_235B = {
    **{"model_type": "qwen3_moe", "hidden_size": 4096, "intermediate_size": 12288, "moe_intermediate_size": 1536},
    **{"num_hidden_layers": 94, "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128},
    **{"num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151936, "tie_word_embeddings": False},
}
Tensor = tuple[str, str, tuple[int, ...], int]
"""Name, dtype, shape and bytes."""


def header(size: int, tensors: Iterator[Tensor], most: int = MOST_TENSORS) -> tuple[str, int]:
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


TENSORS: dict[str, Callable[[int, str], Tensor]] = {
    "A without B": lambda i, p: (factor(f"{p}{i}", 0), "U8", (0,), 0),
    "a shape for each": lambda i, p: (factor(f"{p}{i}", 0), "U8", (0, i), 0),
    "a name in memory for each": lambda i, p: (factor(f"{p}{i}", 0, f"n{i}"), "U8", (0,), 0),
    "layers that no base has": lambda i, p: (factor(f"model.layers.{i // 2}.{p}.q_proj", i), "F16", (1, 1), 2),
    "saved modules": lambda i, p: (f"{PREFIX}{p}{i}.weight", "I8", (0,), 0),
    "embeddings": lambda i, p: (f"{PREFIX}{p}{i}.lora_embedding_A", "U8", (0, i), 0),
    "dots": lambda i, p: (f"{'a.' * 480}{i}.lora_A.weight", "U8", (0,), 0),
    "letters of four bytes": lambda i, p: (f"\U0001f600{p}{i}.lora_A.weight", "U8", (0,), 0),
}
"""What an attacker may fill a header with: a tensor by its number and what to pad its name with."""

TEXTS: dict[str, Callable[[int], str]] = {
    "lists": lambda n: '{"a":{"x":[' + "[]," * (n // 3 - 9) + "[]]}}",
    "metadata": lambda n: '{"__metadata__":{' + ",".join(f'"k{i:014}":"v"' for i in range(n // 22)) + "}}",
    "one long name": lambda n: '{"' + "ab." * (n // 3 - 40) + '":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
    "dimensions": lambda n: '{"a":{"dtype":"U8","shape":[' + "0," * (n // 2 - 50) + '0],"data_offsets":[0,0]}}',
    "digits": lambda n: '{"a":{"dtype":"U8","shape":[' + f"{'9' * 4000}," * (n // 4001 - 50) + "0]}}",
    "blanks": lambda n: "{" + " " * (n - 2) + "}",
}
"""The same as text."""


def filled(folder: Path, name: str, size: int) -> Path:
    """An adapter whose header has so many bytes, in at most as many tensors as are read."""
    if name in TEXTS:
        return write(folder, TEXTS[name](size))
    pad = "p" * max(0, size // MOST_TENSORS - 115)
    return write(folder, *header(size, (TENSORS[name](number, pad) for number in itertools.count())))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    (folder / "config.json").write_text(json.dumps(QWEN3_235B))
    return folder


CASES = [*((name, SMALL) for name in (*TENSORS, *TEXTS)), *((name, LARGE) for name in ("embeddings", *TEXTS))]


@pytest.mark.parametrize(("name", "size"), CASES)
def test_a_header_is_judged_and_inspected_within_bounds(name: str, size: int, tmp_path: Path, base: Path) -> None:
    adapter = filled(tmp_path / "adapter", name, size)
    for command in (["validate", "--base", base, *ENGINES], ["inspect", "--base", base]):
        assert len(bounded(*command, adapter, peak_mb=PEAK_MB[size]).out) < LONGEST_OUTPUT


@pytest.mark.parametrize("size", PEAK_MB)
def test_repair_and_warm_take_no_more(size: int, tmp_path: Path) -> None:
    adapter = filled(tmp_path / "adapter", "embeddings", size)
    assert bounded("repair", adapter, "--engine", "vllm", "--check", peak_mb=PEAK_MB[size]).code == 1
    tiny = write_base(tmp_path / "tiny")
    assert bounded("warm", adapter, "--base", tiny, "--device", "cpu", peak_mb=600).code == 1


@pytest.mark.parametrize("form", slowly(("json", "sarif", "junit", "github"), "json", "sarif"))
def test_reports_tell_a_bounded_number_of_findings(form: str, tmp_path: Path, base: Path) -> None:
    adapter = filled(tmp_path / "adapter", "a name in memory for each", SMALL)
    run = bounded("validate", adapter, "--base", base, *ENGINES, "--format", form)
    assert len(run.out) < 10 * LONGEST_OUTPUT


def test_more_tensors_than_any_adapter_has_are_refused(tmp_path: Path, base: Path) -> None:
    tensors = (TENSORS["A without B"](number, "") for number in itertools.count())
    adapter = write(tmp_path / "adapter", *header(LARGE, tensors, 2 * MOST_TENSORS))
    run = bounded("validate", adapter, "--base", base, peak_mb=600)
    assert (run.code, f"over {MOST_TENSORS} tensors" in words(run)) == (1, True)


def test_factors_of_each_expert_of_a_model_of_235_billion_are_accepted(tmp_path: Path, base: Path) -> None:
    text, nbytes = header(LARGE, experts(94, 128))
    assert text.count('"dtype"') == 72_192
    adapter = write(tmp_path / "adapter", text, nbytes)
    run = bounded("validate", adapter, "--base", base, "--engine", "vllm", "--no-values", peak_mb=600)
    assert "LC102" not in run.out
    assert "36096 modules" in bounded("inspect", adapter, peak_mb=600).out


def test_a_header_of_over_32_mib_is_refused(tmp_path: Path) -> None:
    run = bounded("inspect", write(tmp_path / "adapter", "{" + " " * 32 * MIB + "}"))
    assert (run.code, "but 33554432 are allowed" in words(run)) == (1, True)


def test_other_weights_beside_none_are_read_no_further_than_2_mib(tmp_path: Path) -> None:
    folder = filled(tmp_path / "made", "A without B", LARGE)
    for number in range(8):
        (tmp_path / f"other{number}.safetensors").hardlink_to(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    assert bounded("validate", tmp_path, "--base", "none").code == 1
