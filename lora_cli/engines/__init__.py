"""Facts of engines: how each version reads names, which models take LoRA, and which ranks.

To add an engine, write its file and add it to ``ENGINES``; what it does with which adapters stands with the checks.
"""

import re
from collections.abc import Iterable, Mapping

from lora_cli.engines import peft, sglang, vllm
from lora_cli.engines.profile import Engine, Profile, as_version
from lora_cli.errors import UsageError
from lora_cli.text import did_you_mean

__all__ = ["ENGINES", "Profile", "all_profiles", "choose_engine", "profiles_of"]

ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in (vllm.ENGINE, sglang.ENGINE, peft.ENGINE)}
"""All engines by name."""


def profiles_of(engine: Engine) -> tuple[Profile, ...]:
    """The engine's profiles, newest first."""
    return tuple(Profile(engine, version) for version in reversed(engine.versions))


def all_profiles() -> tuple[Profile, ...]:
    """Every profile of every engine, in their order, oldest version first."""
    return tuple(profile for engine in ENGINES.values() for profile in reversed(profiles_of(engine)))


def choose_engine(text: str) -> Profile:
    """The profile that ``NAME`` or ``NAME@VERSION`` means.

    A version between two profiles gets the older one, a newer version the newest, and a version that is older than all
    profiles the oldest, unproven; ``note`` says which.

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
    if not at:
        return Profile(engine, engine.versions[-1])
    wanted = as_version(requested)
    if not wanted:
        raise UsageError(
            f"{requested!r} is not a version of {engine.title}",
            hint=f"for example {engine.name}@{engine.versions[-1]}",
        )
    older = [version for version in engine.versions if as_version(version) <= wanted]
    if not older:
        oldest = engine.versions[0]
        note = f"older than the oldest profile ({oldest}), which is used instead and may differ"
        return Profile(engine, oldest, requested, note, proven=False)
    found = older[-1]
    if wanted[: len(as_version(found))] == as_version(found):
        return Profile(engine, found, requested)
    newest = found == engine.versions[-1]
    which = "newer than the newest profile" if newest else "between two profiles"
    return Profile(engine, found, requested, f"{which}: validated as {found}")


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
