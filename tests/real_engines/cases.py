"""The generated corpus for engines: what PEFT wrote, what the world broke, and what only an engine stumbles over."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.corpus.bases import Base
from tests.corpus.breaks import BREAKS, CONFIG, WEIGHTS, Break, as_dtype, both, config, names, tensors, text, without
from tests.corpus.goods import NOT_FOR, OPTIONS, options
from tests.corpus.peft_judge import answers, write_adapter
from tests.making import raw
from tests.real_engines.bases import HIDDEN, VOCABULARY

MAX_LORA_RANK = 64
"""What the engines are started with."""


@dataclass(frozen=True, slots=True)
class Case:
    """One adapter on disk and the logits, ``[sequences, tokens, vocab]``, that it was made to answer with.

    ``intended`` is None where a part of what was trained is not there, so that no answer can be right.
    """

    base: Base
    name: str
    directory: Path
    intended: Any


EMBEDDING, HEAD = "embed_tokens", "lm_head"

MORE_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "a rank above the engine's": {"r": 128},
    "a rank above it in a pattern": {"rank_pattern": {".*0.*": 80}},
    "ranks by pattern": {"rank_pattern": {".*o_proj": 2}},
    "alphas by pattern": {"alpha_pattern": {".*o_proj": 3}},
    "rsLoRA and patterns": {"use_rslora": True, "rank_pattern": {".*0.*": 2}, "alpha_pattern": {".*1.*": 5}},
    "the embedding alone": {"target_modules": [EMBEDDING]},
    "the head alone": {"target_modules": [HEAD]},
    "a saved embedding": {"modules_to_save": [EMBEDDING]},
    "a saved norm": {"modules_to_save": ["input_layernorm"]},
    "the query alone": {"target_modules": r".*\.(q_proj|qkv_proj)"},
    "key and value": {"target_modules": r".*\.(k_proj|v_proj|qkv_proj)"},
    "the way up alone": {"target_modules": r".*\.(up_proj|gate_up_proj)"},
    "the MLP alone": {"target_modules": r".*\.mlp\..*_proj"},
    "alphas of zero by pattern": {"alpha_pattern": {".*0.*": 0}},
    "activated by tokens": {"alora_invocation_tokens": [3, 4]},
    "PiSSA by iterations": {"init_lora_weights": "pissa_niter_4"},
    "started at random": {"init_lora_weights": False},
    "rank 1": {"r": 1},
    "rank 7": {"r": 7, "lora_alpha": 16},
    "parameters": {"target_modules": [], "target_parameters": ["o_proj.weight"]},
}


def in_bin(directory: Path) -> None:
    _pickled(directory, "adapter_model.bin")


def in_pt(directory: Path) -> None:
    _pickled(directory, "adapter_model.pt")


def _pickled(directory: Path, name: str) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(directory / WEIGHTS), directory / name)
    (directory / WEIGHTS).unlink()


def stray(directory: Path) -> None:
    shutil.copy(directory / WEIGHTS, directory / "model.safetensors")


def below(directory: Path) -> None:
    (directory / "checkpoint-10").mkdir()
    for name in (CONFIG, WEIGHTS):
        (directory / name).rename(directory / "checkpoint-10" / name)


def packed(name: str) -> str:
    return name.replace("q_proj", "qkv_proj").replace("gate_proj", "gate_up_proj")


def with_tensor(name: str, *shape: int) -> Break:
    return tensors(lambda all_of: all_of | {name: raw(np.ones(shape, np.float32))})


MORE_BREAKS: Mapping[str, Break] = {
    "weights in a pickle": in_bin,
    "weights in a .pt": in_pt,
    "another file of weights beside": stray,
    "the adapter in a folder below": below,
    "another base named": config(base_model_name_or_path="someone/else"),
    "no base named": config(base_model_name_or_path=None),
    "names of fused modules": names(packed),
    "a classifier beside": with_tensor("base_model.model.score.weight", 2, HIDDEN),
    "a copy of the embedding beside": with_tensor(
        "base_model.model.model.embed_tokens.base_layer.weight", VOCABULARY, HIDDEN
    ),
    "a bias on one B": with_tensor("base_model.model.model.layers.0.self_attn.o_proj.lora_B.bias", HIDDEN),
    "a factor under two names": with_tensor("model.layers.0.self_attn.o_proj.lora_B.weight", HIDDEN, 8),
    "a module of elsewhere": both(
        with_tensor("base_model.model.model.layers.0.mlp.fc9.lora_A.weight", 8, HIDDEN),
        with_tensor("base_model.model.model.layers.0.mlp.fc9.lora_B.weight", HIDDEN, 8),
    ),
    "a tower of elsewhere": both(
        with_tensor("base_model.model.vision.layers.0.self_attn.o_proj.lora_A.weight", 8, HIDDEN),
        with_tensor("base_model.model.vision.layers.0.self_attn.o_proj.lora_B.weight", HIDDEN, 8),
    ),
    "a tower's prefix": names(lambda name: name.replace(".model.model.", ".model.model.language_model.")),
    "a module without the model": names(lambda name: name.replace(".model.model.", ".model.")),
    "A missing in o_proj": without("o_proj.lora_A"),
    "A missing in a fused part": without("up_proj.lora_A"),
    "no aLoRA in the config": config(alora_invocation_tokens=[]),
    "saved modules none": config(modules_to_save=[]),
    "a saved classifier in the config": config(modules_to_save=["score"]),
    "rank pattern of strings": config(rank_pattern={"o_proj": "8"}),
    "rank pattern of zero": config(rank_pattern={"o_proj": 0}),
    "rank pattern for nothing": config(rank_pattern={"nothing_proj": 4}),
    "rank pattern of strings for nothing": config(rank_pattern={"nothing_proj": "8"}),
    "rank pattern of true": config(rank_pattern={"o_proj": True}),
    "alpha pattern of strings": config(alpha_pattern={"o_proj": "8"}),
    "alpha pattern of null": config(alpha_pattern={"o_proj": None}),
    "r true": config(r=True),
    "alpha true": config(lora_alpha=True),
    "BD-LoRA of nothing": config(use_bdlora={}),
    "names below the base layer": names(lambda name: name.replace(".lora_", ".base_layer.lora_")),
    "a broken pickle beside": text("training_args.bin", b"PK"),
    "a rank claimed above the engine's": config(r=128),
    "rsLoRA none": config(use_rslora=None),
    "patterns none": config(rank_pattern=None, alpha_pattern=None),
    "bias none": config(bias=None),
    "bias missing": config(bias=...),
    "all that is optional missing": config(bias=..., use_rslora=..., rank_pattern=..., alpha_pattern=..., use_dora=...),
}

MEANT: Mapping[str, Break] = {
    "half precision": as_dtype("float16"),
    "bfloat16": as_dtype("bfloat16"),
    "PiSSA in the config": config(init_lora_weights="pissa"),
    "LoftQ in the config": config(init_lora_weights="loftq"),
    "EVA in the config": config(init_lora_weights="eva"),
    "BD-LoRA in the config": config(use_bdlora={"target_modules_bd_a": ["o_proj"], "nblocks": 2}),
    "QALoRA in the config": config(use_qalora=True),
    "replication in the config": config(layer_replication=[[0, 2]]),
    "a whole head beside": with_tensor("base_model.model.lm_head.weight", VOCABULARY, HIDDEN),
    "a whole norm beside": with_tensor("base_model.model.model.norm.weight", HIDDEN),
}
"""Changes that make another adapter: what is intended is what PEFT, where it takes it, answers with the changed one."""

INCOMPLETE = frozenset(
    {
        "biases on B without tensors",
        "trained tokens without tensors",
        "trained tokens, none of them named",
        "a router's config",
        "a tensor that nobody knows",
        "a bias on one B",
        "a factor under two names",
        "a module of elsewhere",
        "a tower of elsewhere",
    }
)
"""Changes after which a part of what was trained is nowhere, or goes nowhere: whoever answers, answers without it."""

SPOILING = frozenset({"alpha NaN", "NaN in A", "infinity in B", "all NaN", "integers"})
"""Cases after which a server may answer others wrong too."""


OTHER_BASES: Mapping[str, Mapping[str, Any]] = {
    "of a narrower base": {"hidden_size": 32},
    "of a wider base": {"hidden_size": 96},
    "of a base with more layers": {"num_hidden_layers": 3},
    "of a base with fewer layers": {"num_hidden_layers": 1},
    "of a base with fewer heads": {"num_attention_heads": 1},
    "of a base with a wider MLP": {"intermediate_size": 96},
}


NAMES = (*OPTIONS, *MORE_OPTIONS, *OTHER_BASES, *BREAKS, *MORE_BREAKS, *MEANT)
"""Every case: what PEFT writes with each option, of bases that are a little different, and the plain one, changed."""


def possible(base: Base) -> list[str]:
    """The cases that there are for a base."""
    return [name for name in NAMES if base.family not in NOT_FOR.get(name, ())]


class Cases:
    """The cases of one base in a folder, each made when it is first asked for."""

    def __init__(self, base: Base, folder: Path) -> None:
        self.base, self.folder = base, folder
        self._made: dict[str, Case] = {}

    def __getitem__(self, name: str) -> Case:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Case:
        directory, written = self.folder / name, {**OPTIONS, **MORE_OPTIONS}
        if name in written:
            return self._written(name, self.base, written[name])
        if name in OTHER_BASES:
            other = replace(self.base, fields={**self.base.fields, **OTHER_BASES[name]})
            return self._written(name, other, {})
        plain = self["plain"]
        shutil.copytree(plain.directory, directory)
        {**BREAKS, **MORE_BREAKS, **MEANT}[name](directory)
        case = replace(plain, name=name, directory=directory)
        return replace(case, intended=_meant(case) if name in MEANT else None if name in INCOMPLETE else plain.intended)

    def _written(self, name: str, base: Base, changes: Mapping[str, Any]) -> Case:
        """What PEFT writes over ``base``, of the case's own base."""
        directory = self.folder / name
        return Case(self.base, name, directory, write_adapter(base, options(base, changes), directory))


def _meant(case: Case) -> Any:
    """What PEFT answers; what the plain adapter answers where PEFT refuses it."""
    try:
        return answers(case.base, case.directory)
    except Exception:
        return case.intended


def given(base: Base, folder: Path) -> dict[str, Case]:
    """The adapters that an engine is given the folder of, by name: one in a folder below is an adapter only to us."""
    cases = Cases(base, folder)
    return {name: cases[name] for name in possible(base) if MORE_BREAKS.get(name) is not below}
