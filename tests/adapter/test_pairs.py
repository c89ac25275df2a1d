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


def test_tensors_are_paired_by_module_in_the_order_of_their_first_one() -> None:
    pairs = paired(
        *(f"{P}q.lora_B.weight", f"{P}k.lora_B.weight", f"{P}q.lora_A.weight", f"{P}q.lora_magnitude_vector"),
        *(f"{P}v.lora_A.default.weight", f"{P}v.lora_A.weight", f"{P}_orig_mod.v.lora_B.weight", f"{P}lm_head.weight"),
        *(f"{P}wte.lora_embedding_A", f"{P}wte.lora_embedding_B", f"{P}experts.base_layer.lora_A.weight"),
    )
    assert {name: names_of(pair) for name, pair in pairs.items()} == {
        "q": (f"{P}q.lora_A.weight", f"{P}q.lora_B.weight"),
        "k": (None, f"{P}k.lora_B.weight"),
        "v": (f"{P}v.lora_A.weight", f"{P}_orig_mod.v.lora_B.weight"),
        "wte": (f"{P}wte.lora_embedding_A", f"{P}wte.lora_embedding_B"),
        "experts.base_layer": (f"{P}experts.base_layer.lora_A.weight", None),
    }
    assert list(pairs) == ["q", "k", "v", "wte", "experts.base_layer"]
    assert [pair.embedding for pair in pairs.values()] == [False, False, False, True, False]
    assert [pair.rank for pair in pairs.values()] == [4, 8, 4, 4, 4]


def test_a_factor_that_is_no_matrix_has_no_rank() -> None:
    assert paired(f"{P}q.lora_A.weight", f"{P}q.lora_B.weight", shape=(4,))["q"].rank is None
