"""Tensors become pairs by module."""

from lora_cli.adapter.adapter import LoraPair, pair_up
from lora_cli.adapter.names import parse_key
from lora_cli.adapter.safetensors import TensorInfo

P = "base_model.model."


def paired(*names: str, shape: tuple[int, ...] = (4, 8)) -> dict[str, LoraPair]:
    tensors = {name: TensorInfo(name, "F32", shape, 0, 0, "f") for name in names}
    return pair_up(tensors, {name: parse_key(name) for name in names})


def names_of(pair: LoraPair) -> tuple[str | None, str | None]:
    return (pair.a.name if pair.a else None, pair.b.name if pair.b else None)


def test_a_and_b_of_a_module_are_a_pair_and_other_tensors_are_none() -> None:
    pairs = paired(f"{P}q.lora_B.weight", f"{P}q.lora_A.weight", f"{P}q.lora_magnitude_vector", f"{P}lm_head.weight")
    assert list(pairs) == ["q"]
    assert names_of(pairs["q"]) == (f"{P}q.lora_A.weight", f"{P}q.lora_B.weight")
    assert not pairs["q"].embedding


def test_a_pair_can_lack_one_half() -> None:
    pairs = paired(f"{P}q.lora_A.weight", f"{P}v.lora_B.weight")
    assert names_of(pairs["q"]) == (f"{P}q.lora_A.weight", None)
    assert names_of(pairs["v"]) == (None, f"{P}v.lora_B.weight")
    assert (pairs["q"].rank, pairs["v"].rank) == (4, 8)


def test_an_embedding_has_its_own_factors() -> None:
    pair = paired(f"{P}wte.lora_embedding_A", f"{P}wte.lora_embedding_B")["wte"]
    assert pair.embedding
    assert names_of(pair) == (f"{P}wte.lora_embedding_A", f"{P}wte.lora_embedding_B")


def test_of_two_names_for_the_same_factor_the_canonical_one_counts() -> None:
    pair = paired(f"{P}q.lora_A.default.weight", f"{P}q.lora_A.weight", f"{P}_orig_mod.q.lora_B.weight")["q"]
    assert names_of(pair) == (f"{P}q.lora_A.weight", f"{P}_orig_mod.q.lora_B.weight")


def test_pairs_come_in_the_order_of_their_first_tensor() -> None:
    assert list(paired(f"{P}b.lora_A.default.weight", f"{P}a.lora_A.weight", f"{P}b.lora_B.weight")) == ["b", "a"]


def test_nested_wrappers_are_pairs_of_their_own() -> None:
    pairs = paired(*(f"{P}experts{depth}.lora_{x}.weight" for depth in ("", ".base_layer") for x in "AB"))
    assert list(pairs) == ["experts", "experts.base_layer"]


def test_a_factor_that_is_no_matrix_has_no_rank() -> None:
    assert paired(f"{P}q.lora_A.weight", f"{P}q.lora_B.weight", shape=(4,))["q"].rank is None
