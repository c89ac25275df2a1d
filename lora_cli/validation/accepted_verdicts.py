"""Whether verdicts that policies accepted are about exactly what would be validated here, so that it need not be."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from lora_cli.core.adapter import Adapter
from lora_cli.core.finding import Deployment, Outcome
from lora_cli.core.provenance import JudgedEngine, VerifiedVerdict
from lora_cli.engines import Profile, choose_engine
from lora_cli.errors import UsageError
from lora_cli.validation.verdict import Terms


def is_judged(adapter: Adapter, terms: Terms, verdicts: Sequence[VerifiedVerdict]) -> bool:
    """Whether ``verdicts`` on the files of ``adapter`` cover ``terms``: the base, the engines, and their flags.

    Without an engine PEFT's behaviour counts, whatever the limits. What cannot be read here is never covered, and
    neither are pickled weights.
    """
    base = terms.base
    if base is None or not base.config_sha256 or adapter.config is None:
        return False
    if adapter.weights_error is not None or adapter.pickled or not adapter.weight_files:
        return False
    same = [one for one in verdicts if one.base_sha256 == base.config_sha256]
    if not terms.engines and any(not one.engines for one in same):
        return True
    asked, profiles = terms.deployment or Deployment(), terms.engines or (choose_engine("peft"),)
    same = [one for one in same if not terms.engines or _is_started_as(one, asked)]
    engines = [engine for one in same for engine in one.engines]
    return all(any(_is_served(engine, profile) for engine in engines) for profile in profiles)


def _is_started_as(verdict: VerifiedVerdict, asked: Deployment) -> bool:
    """Whether the flags in the verdict are those ``asked``, as far as they matter to one adapter's files."""
    here = json.loads(json.dumps(asdict(asked)))
    flags = ["tp", "max_lora_rank", "lora_target_modules"]
    flags += ["served_model_name"] * (asked.served_model_name is not None)
    flags += ["max_loras", "pinned"] * (asked.pinned > 0)
    return all(flag in verdict.deployment and verdict.deployment[flag] == here[flag] for flag in flags)


def _is_served(judged: JudgedEngine, profile: Profile) -> bool:
    """Whether the verdict is that the engine serves it right, by the same profile; a newer version is another one."""
    if (judged.engine, judged.outcome) != (profile.engine.name, str(Outcome.OK)):
        return False
    try:
        theirs = choose_engine(f"{judged.engine}@{judged.version}")
    except UsageError:
        return False
    known = not (theirs.note or profile.note)
    return theirs.version == profile.version and (known or theirs.requested == profile.requested)
