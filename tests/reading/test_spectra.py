"""The spectrum of an adapter, beside the dense updates of the real PEFT."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora_cli.core.reference import AdapterRef
from lora_cli.core.spectrum import ModuleSpectrum, Spectrum, effective_rank, spread_of
from lora_cli.reading.adapter import Opened, read_adapter
from lora_cli.reading.base_model import read_base_file
from lora_cli.reading.base_weights import BaseNorms, local_checkpoint
from lora_cli.reading.deltas import read_spectrum
from lora_cli.sources.local import LocalSource
from tests.core.peft_cases import CASES
from tests.making import (
    Raw,
    llama_modules,
    llama_tensors,
    write_adapter,
    write_base,
    write_safetensors,
)
from tests.reading.peft_updates import written_by_peft

Q, K = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj"

KINDS = (
    *("llama list", "llama rslora", "llama patterns", "gpt2 list", "patterns with rslora", "embeddings"),
    *("embeddings with rslora", "embeddings of gpt2", "mixtral list", "mixtral patterns", "qwen3_moe list"),
    *(
        "experts with patterns",
        "experts by bare names",
        "experts by their old names",
        "the router",
        "a dense weight as a parameter",
        "KaSA",
        "BD-LoRA",
    ),
    *("DoRA", "lora_bias", "modules_to_save", "trainable tokens", "a fraction as alpha", "layer_replication"),
)


def spectrum_of(directory: Path, base: Path | None = None, norms: BaseNorms | None = None) -> Spectrum:
    source = LocalSource()
    revision = source.resolve(AdapterRef("file", str(directory)))
    adapter = read_adapter(source, revision, "sql")
    return read_spectrum(Opened(source, revision, adapter), None if base is None else read_base_file(base), norms)


def norms_of(directory: Path) -> BaseNorms:
    checkpoint = local_checkpoint(directory)
    assert checkpoint is not None
    return BaseNorms(checkpoint)


def expected(update: Any) -> tuple[float, list[float]]:
    values = np.linalg.svd(update, compute_uv=False)
    return float(np.linalg.norm(values)), [float(value) for value in values.ravel()]


def assert_as_dense(one: ModuleSpectrum, update: Any, precision: float = 1e-6) -> None:
    matrices = update if update.ndim == 3 else update[None]
    values = [np.linalg.svd(matrix, compute_uv=False)[: one.r] for matrix in matrices]
    norm = math.sqrt(sum(float(value @ value) for value in values))
    assert one.experts == len(matrices)
    assert {one.d_out, one.d_in} == set(matrices.shape[1:])
    assert one.norm == pytest.approx(norm, rel=precision)
    entropies = [-(share * np.log(share)).sum() for share in (value[value > 1e-12] / value.sum() for value in values)]
    assert one.effective_rank == pytest.approx(float(np.exp(entropies).mean()), rel=1e-4)
    for k, share in one.energy.items():
        held = math.fsum(float(value[:k] @ value[:k]) for value in values)
        assert share == pytest.approx(held / norm**2, rel=1e-4)
    if one.experts == 1:
        np.testing.assert_allclose(one.singular_values, values[0][: len(one.singular_values)], atol=precision * norm)
    else:
        np.testing.assert_allclose(one.expert_norms, [np.linalg.norm(value) for value in values], rtol=precision)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_factors_has_the_spectrum_of_pefts_own_update(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    updates = written_by_peft(tmp_path, case.family, {"r": 4, "lora_alpha": 12, **case.options}, base=case.base)
    spectrum = spectrum_of(tmp_path)
    assert not spectrum.without
    found = {one.module: one for one in spectrum.modules}
    assert found.keys() == updates.keys()
    for module, update in updates.items():
        assert_as_dense(found[module], update)
    total = math.sqrt(sum(float(np.square(update).sum()) for update in updates.values()))
    assert spectrum.norm == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_dtype_is_read_from_safetensors_and_from_a_pickle(dtype: torch.dtype, safe: bool, tmp_path: Path) -> None:
    options = {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "down_proj", "embed_tokens"]}
    updates = written_by_peft(tmp_path, "llama", options, dtype=dtype)
    if not safe:
        pickle_weights(tmp_path)
    found = {one.module: one for one in spectrum_of(tmp_path).modules}
    for module, update in updates.items():
        assert_as_dense(found[module], update)


def pickle_weights(directory: Path) -> None:
    from safetensors.torch import load_file

    file = directory / "adapter_model.safetensors"
    torch.save(load_file(file), directory / "adapter_model.bin")
    file.unlink()


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_floats_of_eight_bits_count_as_what_they_are(dtype: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(3)
    kind = getattr(torch, dtype)
    a, b = (torch.randn(shape).to(kind) for shape in ((4, 64), (64, 4)))
    write_adapter(tmp_path)
    names = (f"base_model.model.{Q}.lora_A.weight", f"base_model.model.{Q}.lora_B.weight")
    save_file(dict(zip(names, (a, b), strict=True)), tmp_path / "adapter_model.safetensors")
    (one,) = spectrum_of(tmp_path).modules
    assert_as_dense(one, 2 * (b.double() @ a.double()).numpy())


def test_a_convolution_is_the_matrix_of_all_that_its_kernel_sees(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(4, 3, 3, 3)).astype("f4"), random.normal(size=(8, 4, 1, 1)).astype("f4")
    names = (f"base_model.model.{Q}.lora_A.weight", f"base_model.model.{Q}.lora_B.weight")
    write_adapter(tmp_path, modules={Q: (27, 8)}, tensors=dict(zip(names, (a, b), strict=True)))
    (one,) = spectrum_of(tmp_path).modules
    assert_as_dense(one, 2.0 * b.reshape(8, 4).astype("f8") @ a.reshape(4, 27).astype("f8"))


def test_what_has_no_spectrum_is_told_with_its_reason(tmp_path: Path) -> None:
    modules = llama_modules(["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"], layers=1)
    prefix = "base_model.model.model.layers.0"
    holed = np.ones((4, 64), "f4")
    holed[2, 7] = np.nan
    endless = np.full((32, 4), np.inf, "f4")
    write_adapter(
        tmp_path,
        modules=modules,
        tensors={
            f"{prefix}.self_attn.q_proj.lora_A.weight": holed,
            f"{prefix}.self_attn.k_proj.lora_B.weight": endless,
            f"{prefix}.self_attn.o_proj.lora_A.weight": Raw("I32", (4, 64), bytes(1024)),
            f"{prefix}.mlp.up_proj.lora_A.weight": np.zeros((4, 64), "f4"),
        },
        drop=[f"{prefix}.self_attn.v_proj.lora_B.weight"],
    )
    spectrum = spectrum_of(tmp_path)
    assert {one.module.rpartition(".")[2]: one.reason for one in spectrum.without} == {
        "q_proj": "lora_A contains NaN or infinity",
        "k_proj": "lora_B contains NaN or infinity",
        "v_proj": "lora_B is missing",
        "o_proj": "I32 is not a float type",
    }
    (zero,) = spectrum.modules
    assert (zero.norm, zero.effective_rank, zero.rank_99, dict(zero.energy)) == (0.0, 0.0, 0, {})


def test_values_that_a_product_leaves_the_range_of_are_no_traceback(tmp_path: Path) -> None:
    huge = {f"base_model.model.{Q}.lora_A.weight": np.full((4, 64), 1e300), Q_B: np.full((64, 4), 1e300)}
    write_adapter(tmp_path, tensors=huge)
    assert [one.reason for one in spectrum_of(tmp_path).without] == ["its values overflow"]
    tiny = {f"base_model.model.{Q}.lora_A.weight": np.full((4, 64), 1e-200), Q_B: np.full((64, 4), 1e150)}
    write_adapter(tmp_path, tensors=tiny)
    (one,) = spectrum_of(tmp_path).modules
    assert one.norm == pytest.approx(2 * 4 * 64 * 1e-50)
    assert one.effective_rank == pytest.approx(1.0)


Q_B = f"base_model.model.{Q}.lora_B.weight"


def test_without_scales_or_config_there_is_no_spectrum(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", config={"rank_pattern": []})
    assert "its scaling is unknown" in spectrum_of(tmp_path / "a").without[0].reason
    write_adapter(tmp_path / "b")
    (tmp_path / "b" / "adapter_config.json").unlink()
    assert "without a config" in spectrum_of(tmp_path / "b").without[0].reason


def test_experts_whose_ranks_differ_by_parameter_are_told_apart_with_a_base(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    inner, outer = "model.layers.0.mlp.odd.base_layer", "model.layers.0.mlp.odd"
    shapes = {inner: (2, 3, 5), outer: (4, 5, 3)}  # rank, d_in, d_out, for two experts
    tensors = {}
    for module, (r, d_in, d_out) in shapes.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = random.normal(size=(2 * r, d_in)).astype("f4")
        tensors[f"base_model.model.{module}.lora_B.weight"] = random.normal(size=(d_out, 2 * r)).astype("f4")
    fields = {"target_modules": [], "target_parameters": ["odd.first", "odd.second"], "rank_pattern": {"first": 2}}
    write_adapter(tmp_path, modules={}, tensors=tensors, config=fields)
    assert "is only known with a base" in spectrum_of(tmp_path).without[0].reason


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_beside_the_bases_weights_a_norm_is_a_share(dtype: str, shards: int, tmp_path: Path) -> None:
    write_base(tmp_path / "base", dtype=dtype, shards=shards)
    write_adapter(tmp_path / "a", modules={**llama_modules(), "lm_head": (64, 256)})
    norms = norms_of(tmp_path / "base")
    spectrum = spectrum_of(tmp_path / "a", norms=norms)
    held = llama_tensors(dtype=dtype)
    for one in spectrum.modules:
        raw = held[f"{one.module}.weight"]
        bits = (
            np.frombuffer(raw.data, "<u2").astype("<u4") << 16
            if raw.dtype == "BF16"
            else np.frombuffer(raw.data, "<u4")
        )
        assert one.base_norm == pytest.approx(float(np.linalg.norm(bits.view("<f4").astype("f8"))), rel=1e-6)
    assert len(spectrum.modules) == 15
    assert spectrum.base_reason == ""
    assert spectrum.norm is not None
    assert spectrum.relative == pytest.approx(
        spectrum.norm / math.hypot(*(one.base_norm or 0.0 for one in spectrum.modules)), rel=1e-9
    )


def test_a_weight_of_many_pieces_has_the_norm_of_them_all(tmp_path: Path) -> None:
    weight = np.random.default_rng(1).normal(size=(700, 500)).astype("f4")
    write_safetensors(tmp_path / "base" / "model.safetensors", {f"{Q}.weight": weight, f"{K}.weight": weight * 1e6})
    write_adapter(tmp_path / "a", modules={Q: (500, 700), K: (500, 700)})
    norms = norms_of(tmp_path / "base")
    found = [one.base_norm for one in spectrum_of(tmp_path / "a", norms=norms).modules]
    size = float(np.linalg.norm(weight.astype("f8")))
    assert found == [pytest.approx(size, rel=1e-6), pytest.approx(1e6 * size, rel=1e-6)]


def test_what_of_the_base_cannot_be_compared_is_told(tmp_path: Path) -> None:
    tensors = llama_tensors()
    tensors[f"{Q}.weight"] = Raw("I8", (64, 64), bytes(4096))
    del tensors[f"{K}.weight"]
    write_safetensors(tmp_path / "base" / "model.safetensors", tensors)
    v = "model.layers.0.self_attn.v_proj"
    write_adapter(tmp_path / "a", modules={Q: (64, 64), K: (64, 32), v: (64, 64)})
    norms = norms_of(tmp_path / "base")
    spectrum = spectrum_of(tmp_path / "a", norms=norms)
    assert [one.relative for one in spectrum.modules] == [None, None, None]
    assert spectrum.relative is None
    assert "quantised (1 module)" in spectrum.base_reason
    assert "does not have this weight (1 module)" in spectrum.base_reason
    assert "a different shape (1 module)" in spectrum.base_reason


def test_fused_experts_are_measured_against_experts_that_are_stored_one_by_one(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    stored: dict[str, Any] = {}
    for expert in range(2):
        for name, shape in (("w1", (6, 4)), ("w3", (6, 4)), ("w2", (4, 6))):
            path = f"model.layers.0.block_sparse_moe.experts.{expert}.{name}.weight"
            stored[path] = random.normal(size=shape).astype("f4")
    stored["model.embed_tokens.weight"] = random.normal(size=(9, 4)).astype("f4")
    write_safetensors(tmp_path / "base" / "model.safetensors", stored)
    experts = "model.layers.0.mlp.experts"
    tensors = {
        f"base_model.model.{experts}.base_layer.lora_A.weight": np.ones((4, 4), "f4"),
        f"base_model.model.{experts}.base_layer.lora_B.weight": np.ones((12, 4), "f4"),
        f"base_model.model.{experts}.lora_A.weight": np.ones((4, 6), "f4"),
        f"base_model.model.{experts}.lora_B.weight": np.ones((4, 4), "f4"),
    }
    parameters = ["experts.down_proj", "experts.gate_up_proj"]
    write_adapter(tmp_path / "a", modules={}, r=2, tensors=tensors, config={"target_parameters": parameters})
    norms = norms_of(tmp_path / "base")
    spectrum = spectrum_of(tmp_path / "a", norms=norms)
    by_path = {one.path: one for one in spectrum.modules}
    assert by_path.keys() == {f"{experts}.gate_up_proj", f"{experts}.down_proj"}
    for parameter, names in (("gate_up_proj", ("w1", "w3")), ("down_proj", ("w2",))):
        parts = [array for path, array in stored.items() if path.rsplit(".", 2)[1] in names]
        assert by_path[f"{experts}.{parameter}"].base_norm == pytest.approx(
            math.hypot(*(float(np.linalg.norm(part)) for part in parts)), rel=1e-6
        )


def test_effective_rank_is_that_of_roy_and_vetterli() -> None:
    assert effective_rank([2.0, 2.0, 2.0]) == pytest.approx(3.0)
    assert effective_rank([5.0, 0.0, 0.0]) == 1.0
    assert effective_rank([]) == effective_rank([0.0]) == 0.0
    assert effective_rank([3.0, 1.0]) == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))


def test_energy_is_that_of_the_squares() -> None:
    spread = spread_of([2.0, 1.0, 1.0, 0.0])
    assert spread.norm == pytest.approx(math.sqrt(6))
    assert dict(spread.energy) == {1: pytest.approx(4 / 6), 2: pytest.approx(5 / 6)}
    assert spread.rank_99 == 3
    assert dict(spread_of([7.0]).energy) == {1: 1.0}
