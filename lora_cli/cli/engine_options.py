"""``--engine`` and what goes with it: options, a manifest's ``engine:`` block, and what they mean together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from lora_cli.cli.lineup import Lineup
from lora_cli.cli.options import ENGINE, option
from lora_cli.core.deployment import Deployment
from lora_cli.core.units import words_of
from lora_cli.engines import Profile, check_max_lora_rank, choose_engine
from lora_cli.errors import UsageError

if TYPE_CHECKING:
    from lora_cli.documents.manifest import AdapterSet

Tp = Annotated[int, option("--tp", "The engine's tensor-parallel size.", panel=ENGINE, min=1, max=4096)]


def named_engines(named: Sequence[str] | None, manifest: "AdapterSet | None") -> tuple[Profile, ...]:
    """The profiles of ``--engine``, else of the manifest's engine, each once.

    Raises:
        UsageError: an engine or a version that is none.
    """
    words = words_of(named or ())
    if named and not words:
        raise UsageError("--engine names no engine", hint="NAME or NAME@VERSION, or leave the option out")
    spec = manifest.engine if manifest is not None else None
    if not words and spec is None:
        return ()

    if words or spec is None or manifest is None:
        return tuple(map(choose_engine, dict.fromkeys(words)))
    try:
        return (choose_engine(f"{spec.name}@{spec.version}" if spec.version else spec.name),)
    except UsageError as error:
        raise UsageError(f"{manifest.file}: engine: {error.message}", hint=error.hint) from error


def deployment_of(
    engines: Sequence[Profile],
    asked: Lineup,
    *,
    tp: int,
    max_lora_rank: int | None,
    lora_target_modules: Sequence[str],
    served_model_name: str,
    max_loras: int | None,
) -> Deployment | None:
    """How the engines are started, None where there are none. What no flag says, the manifest of ``asked`` may.

    Raises:
        UsageError: an engine does not start with that ``max_lora_rank``.
    """
    if not engines:
        return None

    check_max_lora_rank(engines, max_lora_rank)
    return Deployment(
        tp=tp,
        max_lora_rank=max_lora_rank,
        lora_target_modules=tuple(words_of(lora_target_modules)) or None,
        served_model_name=served_model_name or None,
        max_loras=max_loras if max_loras is not None or asked.engine is None else asked.engine.max_loras,
        pinned=sum(item.pinned for item in asked.items),
    )
