"""Facts of engines: how each is started, which models take LoRA, and which ranks.

To add an engine, add it to ``ENGINES``; what it does with which adapters stands with the checks (``lora_cli.checks``).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from lora_cli.base.base_model import BaseModel
from lora_cli.base.families import FAMILIES
from lora_cli.engines import vllm
from lora_cli.errors import UsageError
from lora_cli.finding import Outcome
from lora_cli.text import did_you_mean

VOCABULARY = frozenset({"embed_tokens", "wte", "embed_in", "word_embeddings", "lm_head", "embed_out"})
"""Names of token embeddings and of output heads."""

PACKED: Mapping[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Modules that engines pack into one, by the name of the packed module."""


def packed_in(leaf: str) -> str:
    """The name of the packed module that contains a module with this last name; empty if there is none."""
    return next((whole for whole, parts in PACKED.items() if leaf in parts), "")


@dataclass(frozen=True, slots=True)
class Flags:
    """How an engine is started with LoRA: the options in which engines differ, and its slots, allocated at the start.

    ``launch`` is the command before its options, with ``{base}`` for the model. ``slots`` limits adapters in a batch,
    ``memory`` those in the machine's memory. ``adapters`` lists those that are loaded at start-up, as ``NAME=PATH`` or
    as JSON with ``keys`` for the two; with ``pins`` one can be pinned there. ``strict`` makes the engine refuse an
    adapter instead of dropping tensors. ``choices`` are the only names of ``--lora-target-modules`` (empty: any);
    ``experts_as_one``: one name stands for all experts there. ``base_slots`` are the slots of the base alone.
    """

    launch: str
    slots: str
    memory: str
    adapters: str
    keys: tuple[str, str]
    pins: bool = False
    strict: str = ""
    choices: frozenset[str] = frozenset()
    experts_as_one: bool = False
    base_slots: int = 0


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine: the behaviour of all its versions, as data.

    ``versions`` are those with a profile, oldest first. ``by_layer``: it finds a module by layer and last name, else by
    its path. ``unexpected`` is what it does with a module whose last name its model does not have, ``beyond`` with one
    in a layer too many. ``reads_peft_type``: tensors of LoRA are not enough for it. ``ranks`` are the values of
    ``max_lora_rank`` (empty: any), ``default_rank`` its default (None: no limit). ``flags`` is None if it is no server.
    """

    name: str
    title: str
    versions: tuple[str, ...]
    by_layer: bool = False
    unexpected: Outcome = Outcome.WRONG_OUTPUT
    beyond: Outcome = Outcome.WRONG_OUTPUT
    reads_peft_type: bool = True
    ranks: tuple[int, ...] = ()
    default_rank: int | None = None
    flags: Flags | None = None

    @property
    def is_vllm(self) -> bool:
        """Whether the tables of ``engines.vllm`` are this engine's; nothing is known of the classes of others."""
        return self.name == "vllm"

    def is_known(self, base: BaseModel) -> bool:
        """Whether it is known if the engine supports LoRA on such a base."""
        by_class = base.model_type in vllm.WITH_LORA or base.architecture in vllm.LORA_SINCE
        return base.model_type in FAMILIES or (self.is_vllm and by_class)


@dataclass(frozen=True, slots=True)
class Profile:
    """An engine at a version: ``version`` is the profile's, ``requested`` the user's (empty: the newest).

    ``note`` says why the two differ; ``proven`` is False for a version older than all profiles.
    """

    engine: Engine
    version: str
    requested: str = ""
    note: str = ""
    proven: bool = True

    @property
    def title(self) -> str:
        """``vLLM 0.33``, with the requested version."""
        return f"{self.engine.title} {self.requested or self.version}"

    @property
    def allowed(self) -> str:
        """The engine's own limit of ranks, in words."""
        engine = self.engine
        if engine.ranks:
            return f"--max-lora-rank is one of {', '.join(map(str, engine.ranks))}; {engine.default_rank} by default"
        return "any rank" if engine.flags is None else "any rank up to --max-lora-rank"

    def is_at_least(self, since: str) -> bool:
        """Whether this version is that one or newer."""
        return as_version(since) <= as_version(self.version)

    def has_lora(self, architecture: str, model_type: str) -> bool:
        """Whether the engine's class of a base supports LoRA, as far as is known; ``architecture`` may be empty."""
        if not self.engine.is_vllm:
            return True
        since = vllm.LORA_SINCE.get(architecture)
        return model_type not in vllm.NO_LORA if since is None else self.is_at_least(since)

    def takes_head(self, architecture: str) -> bool:
        """Whether the engine loads a trained head on a base of this class; the end of its name is enough."""
        since = next((since for end, since in vllm.HEADS_SINCE.items() if architecture.endswith(end)), vllm.NEVER)
        return self.engine.is_vllm and self.is_at_least(since)


@lru_cache(maxsize=256)
def as_version(text: str) -> tuple[int, ...]:
    """``0.5.23`` as numbers, without a suffix (``rc1``, ``+cu129``); empty if it does not start with a number."""
    found = re.match(r"v?([0-9]{1,6}(?:\.[0-9]{1,6}){0,5})", text, re.ASCII)
    return tuple(map(int, found[1].split("."))) if found else ()


VLLM = Engine(
    name="vllm",
    title="vLLM",
    versions=("0.32", "0.33"),
    unexpected=Outcome.REJECTS,
    reads_peft_type=False,
    ranks=(1, 8, 16, 32, 64, 128, 256, 320, 512),
    default_rank=16,
    flags=Flags(
        launch="vllm serve {base}",
        slots="--max-loras",
        memory="--max-cpu-loras",
        adapters="--lora-modules",
        keys=("name", "path"),
        experts_as_one=True,
    ),
)
"""Read in ``vllm/lora`` of 0.32 and 0.33, and run on what PEFT wrote; of 0.32 the whole server (make test-engines).
0.31 ignored the patterns of ranks and alphas, and served wrongly what 0.32 refuses: it is not judged."""

SGLANG = Engine(
    name="sglang",
    title="SGLang",
    versions=("0.5.23",),
    by_layer=True,
    unexpected=Outcome.CRASHES,
    beyond=Outcome.REJECTS,
    flags=Flags(
        launch="python -m sglang.launch_server --model-path {base}",
        slots="--max-loras-per-batch",
        memory="--max-loaded-loras",
        adapters="--lora-paths",
        keys=("lora_name", "lora_path"),
        pins=True,
        strict="--lora-strict-loading",
        choices=frozenset(
            {
                *("q_proj", "k_proj", "v_proj", "o_proj", "q_a_proj", "kv_a_proj_with_mqa", "q_b_proj", "kv_b_proj"),
                *("wq_b", "wk", "weights_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj"),
                *("embed_tokens", "lm_head", "qkvr", "wo_ud"),
            }
        ),
        base_slots=1,
    ),
)
"""Read in ``sglang/srt/lora``, and run on adapters that PEFT wrote. Much that it takes at load fails in the first batch
that needs it, and nothing between there and the scheduler's process catches that: the server goes down."""

PEFT = Engine(name="peft", title="PEFT", versions=("0.21",))

BUILT = frozenset(
    {
        *("BEFT", "BOFT", "DEFT", "DELORA", "FOURIERFT", "GLORA", "GRALORA", "HIRA", "HRA", "IA3", "LILY", "LN_TUNING"),
        *("LOHA", "LOKR", "MISS", "OSF", "PEANUT", "PSOFT", "RANDLORA", "SHIRA", "SUPERTUNING", "TINYLORA", "UNILORA"),
    }
)
"""The values of ``peft_type`` with which PEFT 0.21 loads what it saved as LoRA; its tensors are dropped."""

IA3_FAMILIES = frozenset(
    {
        *("bart", "bert", "bloom", "deberta", "deberta-v2", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2"),
        *("gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "llama", "llama4", "mistral", "mixtral", "mt5", "opt", "phi"),
        *("qwen2", "qwen3", "roberta", "t5"),
    }
)
"""PEFT 0.21's ``TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING``."""

ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in (VLLM, SGLANG, PEFT)}
"""All engines by name."""


def all_profiles() -> tuple[Profile, ...]:
    """Every profile of every engine, in their order, oldest version first."""
    return tuple(Profile(engine, version) for engine in ENGINES.values() for version in engine.versions)


def choose_engine(text: str) -> Profile:
    """The profile that ``NAME`` or ``NAME@VERSION`` means.

    A version without a profile gets the next older one, or if there is none the oldest, unproven; ``note`` says which.

    Raises:
        UsageError: there is no engine of that name, or the version is not one.
    """
    name, at, requested = text.strip().partition("@")
    engine = ENGINES.get(name.lower())
    if engine is None:
        called = text if "/" in name else name
        word, _, version = re.sub("[=:]+", "@", name, count=1).partition("@")
        hint = f"did you mean {word}@{version}?" if word.lower() in ENGINES else did_you_mean(name, ENGINES)
        raise UsageError(f"unknown engine {called!r}", hint=hint)
    oldest, newest = engine.versions[0], engine.versions[-1]
    if not at:
        return Profile(engine, newest)
    wanted = as_version(requested)
    if not wanted:
        raise UsageError(
            f"{requested!r} is not a version of {engine.title}", hint=f"for example {engine.name}@{newest}"
        )
    found = next((version for version in reversed(engine.versions) if as_version(version) <= wanted), "")
    if not found:
        note = f"older than the oldest profile ({oldest}), which is used instead and may differ"
        return Profile(engine, oldest, requested, note, proven=False)
    which = "newer than the newest profile" if found == newest else "between two profiles"
    is_same = wanted[: len(as_version(found))] == as_version(found)
    return Profile(engine, found, requested, "" if is_same else f"{which}: validated as {found}")


def check_max_lora_rank(profiles: Iterable[Profile], max_lora_rank: int | None) -> None:
    """Check that each engine starts with that ``max_lora_rank``.

    Raises:
        UsageError: one does not.
    """
    for profile in profiles:
        allowed = profile.engine.ranks
        if max_lora_rank is not None and allowed and max_lora_rank not in allowed:
            larger = next((rank for rank in allowed if rank >= max_lora_rank), max(allowed))
            raise UsageError(
                f"{profile.engine.title} does not start with a max_lora_rank of {max_lora_rank}: {profile.allowed}",
                hint=f"--max-lora-rank {larger}",
            )
