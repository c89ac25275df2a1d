"""``--engine-args`` and what goes with it: how the engine is to be started, by options and by a manifest."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from lora_cli.cli.lineup import Lineup, check_max_cpu_loras
from lora_cli.core.reference import AdapterRef, parse
from lora_cli.engines import ENGINES, choose_engine
from lora_cli.engines.fit import Limits
from lora_cli.errors import UsageError
from lora_cli.settings import Settings
from lora_cli.validation import Checked, is_path
from lora_cli.validation.engine_args import Deployed


def deployed_of(text: str, asked: Lineup, max_loras: int | None, max_cpu_loras: int | None, tp: int) -> Deployed | None:
    """How the engine is to be started, as far as that is known before the adapters are read; None for no engine.

    A manifest that is for the same engine says the version and the limits, where the options do not.

    Raises:
        UsageError: no such engine or version, or one whose flags are not known; fewer adapters in memory than slots.
    """
    if not text:
        return None

    name, at, _ = text.strip().partition("@")
    spec = asked.engine if asked.engine is not None and asked.engine.name == name.lower() else None
    profile = choose_engine(f"{name}@{spec.version}" if spec is not None and spec.version and not at else text)
    if profile.engine.slots is None:
        known = " or ".join(engine.name for engine in ENGINES.values() if engine.slots is not None)
        raise UsageError(f"the flags of {profile.engine.title} are not known here", hint=f"--engine-args {known}")
    slots = max_loras or (spec.max_loras if spec is not None else None)
    memory = max_cpu_loras or (spec.max_cpu_loras if spec is not None else None)
    check_max_cpu_loras(max_cpu_loras, slots)
    pinned = frozenset(item.name for item in asked.items if item.pinned)
    model, revision = _called(asked.base)
    return Deployed(
        profile,
        model,
        revision,
        tp,
        Limits(slots, memory, len(pinned)),
        named=asked.manifest is not None,
        pinned=pinned,
        rank=spec.max_lora_rank if spec is not None else None,
    )


def _called(base: str | AdapterRef) -> tuple[str, str]:
    """What an engine on this machine is given as its model, and the commit; empty for what it cannot be given."""
    if not base:
        return "", ""
    ref = parse(base, is_path=is_path) if isinstance(base, str) else base
    if ref.scheme == "hf" and not ref.subfolder:
        return ref.location, ref.revision or ""
    if ref.scheme == "file" and Path(ref.location).is_dir() and ref.location.isprintable():
        return ref.location, ""
    return "", ""


def folders_of(judged: Iterable[tuple[str, Checked]], settings: Settings) -> Mapping[str, str]:
    """The folder of each adapter that an engine on this machine can load: its own, or its view in the cache."""
    found = {}
    for name, checked in judged:
        ref = checked.revision.ref if checked.revision is not None else None
        if ref is not None and ref.scheme == "file":
            folder = Path(ref.location)
        else:
            folder = settings.cache_dir.absolute() / "adapters" / name
        if folder.is_dir() and str(folder).isprintable():
            found[name] = str(folder)
    return found
