"""What machines read of ``engines``: each profile with its rows, its limits, and what it makes of other rules."""

from collections.abc import Sequence
from typing import Any

from lora_cli.engines import Profile
from lora_cli.render.json import document
from lora_cli.rules.features import FEATURES


def render_engines(profiles: Sequence[Profile]) -> str:
    """The document of ``engines``: one entry for each profile, one row for each feature."""
    return document("engines", {"engines": [_profile(profile) for profile in profiles]})


def _profile(profile: Profile) -> dict[str, Any]:
    engine = profile.engine
    rows = {row.feature: row for row in profile.rows}
    return {
        "name": engine.name,
        "title": engine.title,
        "version": profile.version,
        "asked": profile.asked or None,
        "note": profile.note,
        "proven": profile.proven,
        "ranks": list(engine.ranks) or None,
        "default_rank": engine.default_rank,
        "features": [
            {
                "feature": name,
                "title": feature.title,
                "outcome": feature.outcome(name, profile),
                **{key: getattr(rows.get(name), key, "") for key in ("reason", "mend", "evidence", "proof")},
            }
            for name, feature in FEATURES.items()
        ],
        "rules": dict(sorted(engine.generic.items())),
    }
