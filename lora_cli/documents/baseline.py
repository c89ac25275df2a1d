"""The file of accepted findings: they are reported and do not count, so that only what is new refuses."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal

import yaml
from pydantic import Field

from lora_cli.documents.document import Model, parse_yaml

SCHEMA = "lora_cli/baseline/2"


class AcceptedFinding(Model):
    """A finding that does not count, and why."""

    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    """Identifies the adapter by its name, the rule and the place, whatever the adapter's version."""
    code: Annotated[str, Field(pattern="^LC[0-9]{3}$")]
    """The code of the rule, as in lora-cli rules."""
    reason: Annotated[str, Field(pattern=r"\S")]
    """Why it is accepted, and by whom."""
    until: Annotated[str, Field(pattern="^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$")] | None = None
    """The last day, in UTC, on which it is accepted: 2027-03-31 (default: no end)."""

    @property
    def is_over(self) -> bool:
        """Whether its last day is past."""
        return self.until is not None and self.until < datetime.now(UTC).date().isoformat()


class Baseline(Model):
    """Accepted findings."""

    format: Literal["lora_cli/baseline/2"] = Field(alias="schema")
    """The version of this format: lora-cli validate --write-baseline FILE writes it, also in place of an older one."""
    findings: tuple[AcceptedFinding, ...]
    """One for each place."""


def render_baseline(findings: Mapping[str, AcceptedFinding]) -> str:
    """The file as YAML, the same for the same findings by their fingerprints."""
    ordered = sorted(findings.values(), key=lambda one: (one.code, one.reason, one.fingerprint))
    document = {"schema": SCHEMA, "findings": [one.model_dump(exclude_none=True) for one in ordered]}
    written: str = yaml.safe_dump(document, sort_keys=False, width=1 << 30)
    return written


def load_baseline(text: str, where: str) -> Mapping[str, AcceptedFinding]:
    """The accepted findings in a file, by their fingerprints.

    Raises:
        UsageError: every mistake with file, line and key.
    """
    return {one.fingerprint: one for one in parse_yaml(text, where).read(Baseline).findings}
