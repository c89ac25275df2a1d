"""Ways in which adapters are broken: each takes a good adapter's folder and changes it as the world does."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tests.making import Raw, raw, write_safetensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Break = Callable[[Path], object]
Tensors = dict[str, Raw]
PREFIX = "base_model.model."


def config(**changes: Any) -> Break:
    """Set fields; ``...`` takes one out."""

    def change(directory: Path) -> None:
        fields = json.loads((directory / CONFIG).read_text()) | changes
        fields = {name: value for name, value in fields.items() if value is not ...}
        (directory / CONFIG).write_text(json.dumps(fields))

    return change


def tensors(edit: Callable[[Tensors], Mapping[str, Raw]]) -> Break:
    def change(directory: Path) -> None:
        written = {name: raw(array) for name, array in load_file(directory / WEIGHTS).items()}
        write_safetensors(directory / WEIGHTS, edit(written))

    return change


def names(edit: Callable[[str], str]) -> Break:
    return tensors(lambda all_of: {edit(name): one for name, one in all_of.items()})


def text(file: str, content: bytes) -> Break:
    return lambda directory: (directory / file).write_bytes(content)


def data(edit: Callable[[bytes], bytes]) -> Break:
    return lambda directory: (directory / WEIGHTS).write_bytes(edit((directory / WEIGHTS).read_bytes()))


def both(*breaks: Break) -> Break:
    def change(directory: Path) -> None:
        for one in breaks:
            one(directory)

    return change


def first(all_of: Tensors, mark: str) -> str:
    return next(name for name in sorted(all_of) if mark in name)


def one_tensor(mark: str, edit: Callable[[Any], Any]) -> Break:
    """Change the values (a float32 array) of the first tensor whose name holds ``mark``."""
    return tensors(lambda all_of: all_of | {(name := first(all_of, mark)): raw(edit(values(all_of[name])))})


def every_tensor(mark: str, edit: Callable[[Any], Any]) -> Break:
    return tensors(
        lambda all_of: {name: raw(edit(values(one))) if mark in name else one for name, one in all_of.items()}
    )


def values(one: Raw) -> Any:
    assert one.dtype == "F32"
    return np.frombuffer(one.data, "<f4").reshape(one.shape)


def poisoned(value: float) -> Callable[[Any], Any]:
    def poison(array: Any) -> Any:
        changed = array.copy()
        changed.flat[array.size // 2] = value
        return changed

    return poison


def without(mark: str, *, all_of_them: bool = False) -> Break:
    def dropped(all_of: Tensors) -> Tensors:
        gone = {name for name in all_of if mark in name} if all_of_them else {first(all_of, mark)}
        return {name: one for name, one in all_of.items() if name not in gone}

    return tensors(dropped)


def as_dtype(dtype: str) -> Break:
    return tensors(lambda all_of: {name: raw(values(one), dtype) for name, one in all_of.items()})


def integers(all_of: Tensors) -> Tensors:
    return {name: Raw("I8", one.shape, b"\3" * (len(one.data) // 4)) for name, one in all_of.items()}


def lies_about_length(content: bytes) -> bytes:
    return (10**9).to_bytes(8, "little") + content[8:]


def renamed_file(directory: Path) -> None:
    (directory / WEIGHTS).rename(directory / "model.safetensors")


def sharded(directory: Path) -> None:
    (directory / WEIGHTS).rename(directory / "adapter_model-00001-of-00001.safetensors")
    (directory / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {}}))


def duplicated_key(directory: Path) -> None:
    written = (directory / CONFIG).read_text()
    (directory / CONFIG).write_text('{"r": 64,' + written.lstrip()[1:])


def other_layer(name: str) -> str:
    for stack in ("layers", "h"):
        name = name.replace(f".{stack}.0.", f".{stack}.40.")
    return name


HTML = b"<!doctype html><html><body>Sign in to continue</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 1234\n"

BREAKS: dict[str, Break] = {
    "r doubled": config(r=16),
    "r zero": config(r=0),
    "r a string": config(r="8"),
    "r missing": config(r=...),
    "r negative": config(r=-4),
    "r a fraction": config(r=4.5),
    "alpha zero": config(lora_alpha=0),
    "alpha a string": config(lora_alpha="16"),
    "alpha missing": config(lora_alpha=...),
    "alpha NaN": config(lora_alpha=float("nan")),
    "alpha negative": config(lora_alpha=-12),
    "rsLoRA as a string": config(use_rslora="false"),
    "method missing": config(peft_type=...),
    "method in small letters": config(peft_type="lora"),
    "another method": config(peft_type="IA3"),
    "an unknown method": config(peft_type="MAGIC"),
    "targets null": config(target_modules=None),
    "targets empty": config(target_modules=[]),
    "targets of another family": config(target_modules=["query_of_elsewhere"]),
    "targets a broken pattern": config(target_modules="(q_proj"),
    "targets a pattern for nothing": config(target_modules=r".*\.nothing"),
    "only the first layer targeted": config(layers_to_transform=[0]),
    "layers that are not there": config(layers_to_transform=[17]),
    "everything excluded": config(exclude_modules=r".*"),
    "a rank pattern that is wrong": config(rank_pattern={".*": 2}),
    "a rank pattern that is broken": config(rank_pattern={"(q": 2}),
    "saved modules without tensors": config(modules_to_save=["lm_head"]),
    "DoRA without magnitudes": config(use_dora=True),
    "biases on B without tensors": config(lora_bias=True),
    "an unknown bias": config(bias="some"),
    "dropout beyond 1": config(lora_dropout=1.5),
    "an unknown initialisation": config(init_lora_weights="magic"),
    "parameters that are not there": config(target_parameters=["experts.gate_up_proj"]),
    "trained tokens without tensors": config(trainable_token_indices=[1, 2]),
    "a pattern for layers without layers": config(layers_pattern="layers"),
    "a task that nobody knows": config(task_type="text-generation"),
    "KaSA without its diagonals": config(kasa_config={}),
    "blocks of nothing": config(use_bdlora={"nblocks": 2}),
    "a router's config": config(arrow_config={"top_k": 1}),
    "two variants": config(velora_config={"num_groups": 2}, kasa_config={}),
    "trained tokens, none of them named": config(trainable_token_indices=[]),
    "alpha next to nothing": config(lora_alpha=1e-30),
    "LoftQ without its config": config(init_lora_weights="loftq", loftq_config={}),
    "CorDA as it was trained": config(init_lora_weights="corda"),
    "an odd rank of no module, beside orthogonal ones": config(
        init_lora_weights="orthogonal", rank_pattern={"no.such.module": 3}
    ),
    "config empty": text(CONFIG, b""),
    "config cut off": lambda directory: (directory / CONFIG).write_text((directory / CONFIG).read_text()[:-20]),
    "config a list": text(CONFIG, b"[]"),
    "config a page": text(CONFIG, HTML),
    "config missing": lambda directory: (directory / CONFIG).unlink(),
    "config with a key twice": duplicated_key,
    "config with an unknown field": config(future_feature=True),
    "config with a note": config(_comment="trained on Tuesday"),
    "A missing once": without("lora_A"),
    "B missing once": without("lora_B"),
    "B missing": without("lora_B", all_of_them=True),
    "a layer missing": without(".0.", all_of_them=True),
    "no tensors": tensors(lambda _: {}),
    "prefix missing": names(lambda name: name.removeprefix(PREFIX)),
    "prefix doubled": names(lambda name: PREFIX + name),
    "half a prefix": names(lambda name: name.removeprefix("base_model.")),
    "compiled": names(lambda name: name.replace(PREFIX, f"{PREFIX}_orig_mod.")),
    "DDP": names(lambda name: f"module.{name}"),
    "FSDP": names(lambda name: name.replace(".lora_", "._fsdp_wrapped_module.lora_")),
    "state dict": names(lambda name: name.replace(".weight", ".default.weight")),
    "another name in memory": names(lambda name: name.replace(".weight", ".sql.weight")),
    "underscores for dots": names(lambda name: name.replace(".", "_")),
    "down and up": names(lambda name: name.replace("lora_A", "lora_down").replace("lora_B", "lora_up")),
    "a layer beyond the base": names(other_layer),
    "A and B exchanged": names(
        lambda name: name.replace("lora_A", "lora_X").replace("lora_B", "lora_A").replace("lora_X", "lora_B")
    ),
    "A transposed": one_tensor("lora_A", lambda array: array.T.copy()),
    "B transposed": every_tensor("lora_B", lambda array: array.T.copy()),
    "A narrower": one_tensor("lora_A", lambda array: array[:, :-8].copy()),
    "B shorter": one_tensor("lora_B", lambda array: array[:-8].copy()),
    "rank of one pair smaller": both(
        one_tensor("lora_A", lambda array: array[:2].copy()), one_tensor("lora_B", lambda array: array[:, :2].copy())
    ),
    "A flat": one_tensor("lora_A", lambda array: array.reshape(-1).copy()),
    "A empty": one_tensor("lora_A", lambda array: np.zeros(0, np.float32)),
    "A a scalar": one_tensor("lora_A", lambda array: np.array(1.0, np.float32)),
    "NaN in A": one_tensor("lora_A", poisoned(np.nan)),
    "infinity in B": one_tensor("lora_B", poisoned(np.inf)),
    "all NaN": every_tensor("lora_", lambda array: array * np.nan),
    "B zero": every_tensor("lora_B", np.zeros_like),
    "A zero": every_tensor("lora_A", np.zeros_like),
    "all zero": every_tensor("lora_", np.zeros_like),
    "integers": tensors(integers),
    "double precision": as_dtype("float64"),
    "a tensor that nobody knows": tensors(lambda all_of: all_of | {"lora_thing": raw(np.ones((2, 2)))}),
    "weights cut by a byte": data(lambda content: content[:-1]),
    "weights cut in half": data(lambda content: content[: len(content) // 2]),
    "weights cut in the header": data(lambda content: content[:100]),
    "weights with bytes behind": data(lambda content: content + b"\0" * 8),
    "weights with a long header": data(lies_about_length),
    "weights empty": text(WEIGHTS, b""),
    "weights a page": text(WEIGHTS, HTML),
    "weights a pointer": text(WEIGHTS, POINTER),
    "weights zeros": text(WEIGHTS, b"\0" * 4096),
    "weights missing": lambda directory: (directory / WEIGHTS).unlink(),
    "weights under another name": renamed_file,
    "weights sharded": sharded,
}
"""Name to change. Some are harmless: what PEFT makes of each is measured, not listed."""
