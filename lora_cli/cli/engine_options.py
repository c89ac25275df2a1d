"""``--engine``, ``--engine-args`` and a manifest's ``engine:`` block: the engines and their launch options."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.cli.adapter_selection import Inputs
from lora_cli.errors import UsageError
from lora_cli.finding import Deployment
from lora_cli.judging.read import ref_of
from lora_cli.refs.reference import AdapterRef
from lora_cli.units import words_of

if TYPE_CHECKING:
    from lora_cli.documents.manifest import AdapterSet
    from lora_cli.engines import Profile
    from lora_cli.judging.engine_args import Launch


def named_engines(named: Sequence[str] | None, manifest: "AdapterSet | None") -> "tuple[Profile, ...]":
    """The profiles of ``--engine``, else of the manifest's engine, each once.

    Raises:
        UsageError: an unknown engine, or not a version.
    """
    words = words_of(named or ())
    if named and not words:
        raise UsageError("--engine has no value", hint="use NAME or NAME@VERSION, or remove the option")
    spec = manifest.engine if manifest is not None else None
    if not words and spec is None:
        return ()
    from lora_cli.engines import choose_engine

    if words or spec is None or manifest is None:
        return tuple(map(choose_engine, dict.fromkeys(words)))
    try:
        return (choose_engine(spec.wanted),)
    except UsageError as error:
        raise UsageError(f"{manifest.file}: engine: {error.message}", hint=error.hint) from error


def deployment_of(engines: "Sequence[Profile]", inputs: Inputs, max_lora_rank: int | None) -> Deployment:
    """The launch options of the engines, from ``--max-lora-rank`` and the manifest.

    Raises:
        UsageError: an engine does not start with that ``max_lora_rank``.
    """
    if engines:
        from lora_cli.engines import check_max_lora_rank

        check_max_lora_rank(engines, max_lora_rank)
    return Deployment(
        max_lora_rank=max_lora_rank,
        max_loras=inputs.engine.max_loras if inputs.engine is not None else None,
        pinned=sum(item.pinned for item in inputs.items),
    )


def engine_launch(text: str, inputs: Inputs) -> "Launch | None":
    """The launch options of ``--engine-args`` that are known before the adapters are read; None without an engine.

    The version defaults to that of a manifest for the same engine, whose limits hold.

    Raises:
        UsageError: no such engine or version, or one whose flags are not known.
    """
    if not text:
        return None
    from lora_cli.engines import ENGINES, choose_engine
    from lora_cli.judging.engine_args import Launch

    name, at, _ = text.strip().partition("@")
    spec = inputs.engine if inputs.engine is not None and inputs.engine.name == name.lower() else None
    profile = choose_engine(spec.wanted if spec is not None and not at else text)
    if profile.engine.slots is None:
        known = " or ".join(engine.name for engine in ENGINES.values() if engine.slots is not None)
        raise UsageError(f"the flags of {profile.engine.title} are unknown", hint=f"--engine-args {known}")
    return Launch(
        profile,
        *_model_argument(inputs.base),
        named=inputs.manifest is not None,
        pinned=frozenset(item.name for item in inputs.items if item.pinned),
        max_lora_rank=spec.max_lora_rank if spec is not None else None,
        max_loras=spec.max_loras if spec is not None else None,
        max_cpu_loras=spec.max_cpu_loras if spec is not None else None,
    )


def _model_argument(base: str | AdapterRef) -> tuple[str, str]:
    """The ``--model`` and ``--revision`` of an engine on this machine; empty if it cannot load the base."""
    if not base:
        return "", ""
    ref = ref_of(base)
    if ref.scheme == "hf" and not ref.subfolder:
        return ref.location, ref.revision or ""
    if ref.scheme == "file" and Path(ref.location).is_dir() and ref.location.isprintable():
        return ref.location, ""
    return "", ""
