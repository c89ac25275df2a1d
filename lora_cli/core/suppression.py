"""Findings that an operator has looked at and accepts: of one rule, in exactly these bytes, for a reason."""

from dataclasses import dataclass
from pathlib import Path

from lora_cli.core.document import Node, wrong
from lora_cli.core.fields import fields, items, text

_DIGEST = r"[0-9a-f]{64}"
_RULE = r"LC[0-9]{3}|[a-z][a-z0-9-]{0,99}"
_REASON = r"(?s:.*\S.*)"
_DAY = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"


@dataclass(frozen=True, slots=True)
class Suppression:
    """What ``rule`` (its code or name) finds in the snapshot ``digest`` does not count, for ``reason``.

    The last day on which that holds is ``until`` (``2027-03-31``, UTC); empty: for ever. ``at`` is ``file:line``.
    """

    digest: str
    rule: str
    reason: str
    until: str = ""
    at: str = ""

    def covers(self, code: str, name: str) -> bool:
        """Whether this is about the rule with that code and name."""
        return self.rule in {code, name}

    def expired(self, today: str) -> bool:
        """Whether it held until a day before ``today``."""
        return bool(self.until) and self.until < today


def read_suppressions(node: Node, _: Path) -> tuple[Suppression, ...]:
    """The list under a policy's ``suppressions``.

    Raises:
        UsageError: with file, line and key; also for two about the same.
    """
    found: dict[tuple[str, str], Suppression] = {}
    for member in items(node):
        one = _suppression(member)
        if (first := found.setdefault((one.digest, one.rule), one)) is not one:
            raise wrong(
                member,
                f"{one.rule} is suppressed twice for that digest (first at {first.at})",
                hint="leave one of them out",
            )
    return tuple(found.values())


def _suppression(node: Node) -> Suppression:
    entries = fields(node, ("digest", "rule", "reason", "until"), ("digest", "rule", "reason"))
    until = entries.get("until")
    return Suppression(
        text(
            entries["digest"],
            _DIGEST,
            "a snapshot digest: 64 hexadecimal digits in lower case",
            "validate --format json tells it",
        ),
        text(entries["rule"], _RULE, "a rule: LC504, or its name", "lora-cli rules lists them"),
        " ".join(
            text(entries["reason"], _REASON, "a reason in words", "say who looked at it, and why it is right").split()
        ),
        text(until, _DAY, "a day", "until: 2027-03-31, the last day on which it holds") if until is not None else "",
        f"{node.file}:{node.line}",
    )
