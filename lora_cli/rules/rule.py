"""A rule, the ``Case`` that it checks, and how rules are run and their messages are formatted."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import getdoc
from itertools import islice
from typing import TYPE_CHECKING, Literal

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.beside import Companions
from lora_cli.adapter.config import LoraConfig
from lora_cli.adapter.names import Key
from lora_cli.base.base_model import BaseModel
from lora_cli.finding import (
    NO_BASE,
    NO_VALUES,
    Deployment,
    EngineOutcome,
    Finding,
    Location,
    Problem,
    Severity,
    Skipped,
)
from lora_cli.peft.match import Application, misshapen
from lora_cli.refs.adapter_files import CONFIG, WEIGHTS
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.text import LONGEST_NAME, beginning, by_key, counted, cut, names

if TYPE_CHECKING:
    from lora_cli.adapter.values import TensorStats

LONGEST_MESSAGE = 2000
MOST_PROBLEMS = 20

Need = Literal["config", "weights", "base", "values", "companions"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Data of one adapter beyond its config and header.

    ``stats`` maps tensor names to statistics of their values; ``stats_reason`` says why there are none, empty if the
    values were scanned. ``companions`` are the files next to the weights, None if no rule needs them. ``ref`` is the
    requested reference, ``commit`` its revision if it is a Hub repository. ``base`` is the base model of its own
    config; ``base_reason`` says why there is none.
    """

    stats: Mapping[str, "TensorStats"] = field(default_factory=dict)
    stats_reason: str = NO_VALUES
    companions: Companions | None = None
    ref: AdapterRef | None = None
    commit: str = ""
    base: BaseModel | None = None
    base_reason: str = NO_BASE


@dataclass(frozen=True, slots=True)
class Case:
    """One adapter, with everything that rules check.

    ``base`` is None if none was given. ``application`` sorts the adapter's modules by what PEFT would do with them.
    ``outcomes`` are those of the named engines, in that ``deployment``.
    """

    adapter: Adapter
    application: Application
    evidence: Evidence = Evidence()
    base: BaseModel | None = None
    outcomes: tuple[EngineOutcome, ...] = ()
    deployment: Deployment = field(default_factory=Deployment)

    def why_missing(self, need: str) -> str:
        """Why ``need`` (config, weights, base, values or companions) is missing; empty if it is not."""
        foreign = f"it is {self.adapter.foreign.format.title}" if self.adapter.foreign is not None else ""
        weights = "" if self.has_weights else foreign or self.adapter.unread or "the weights could not be read"
        config = "" if self.adapter.config is not None else f"{CONFIG} could not be read"
        config = config if self.is_lora else foreign or config
        reasons = {
            "config": config,
            "weights": weights,
            "base": "" if self.base is not None else self.evidence.base_reason,
            "values": self.evidence.stats_reason,
            "companions": "" if self.evidence.companions is not None else "the files next to the weights were not read",
        }
        return reasons[need]

    @property
    def config(self) -> LoraConfig:
        """The adapter's config, for a rule that needs it."""
        assert self.adapter.config is not None
        return self.adapter.config

    @property
    def is_lora(self) -> bool:
        """Whether the config is that of a LoRA adapter."""
        return self.adapter.config is not None and self.adapter.config.peft_type == "LORA"

    @property
    def has_weights(self) -> bool:
        """Whether the names and shapes of the tensors are known, and are in PEFT's format."""
        return self.adapter.has_weights

    def in_weights(self, name: str = "") -> Location:
        """The location of a tensor or a module in the weights."""
        return Location(self.weights_file, cut(name))

    def in_config(self, field: str = "") -> Location:
        """The location of a field in the config, for a rule that needs it."""
        return Location(self.config.file, field)

    @property
    def weights_file(self) -> str:
        """The file that is named in findings about tensors."""
        return self.adapter.weight_files[0] if self.adapter.weight_files else WEIGHTS

    @property
    def unserved_variant(self) -> str:
        """The field of a variant of LoRA that no engine serves: shapes are not checked. Empty for all others."""
        config = self.adapter.config
        fields = ("use_bdlora", "use_qalora", "layer_replication")
        return next((field for field in fields if config is not None and getattr(config, field)), "")

    @property
    def misshapen(self) -> Mapping[str, list[str]]:
        """The modules of the base whose factors have other shapes, each with the differences."""
        return {} if self.unserved_variant else misshapen(self.application)

    def other_tensors(self) -> Iterator[Key]:
        """The tensors that are not factors: saved modules, trained tokens, biases."""
        factors = {factor.name for pair in self.adapter.pairs.values() for factor in pair.factors}
        return (key for name, key in self.adapter.keys.items() if name not in factors)

    def tokens_beyond_vocabulary(self) -> tuple[str, Location] | None:
        """The message and location if ``added_tokens.json`` has ids beyond the base's vocabulary."""
        size = self.base.vocab_size if self.base is not None else None
        companions = self.evidence.companions
        added = (companions.added_tokens or {}) if companions is not None else {}
        beyond = sorted(token for token, index in added.items() if size is not None and index >= size)
        if not beyond:
            return None
        message = f"{counted(len(beyond), 'added token has', 'added tokens have')} an id beyond the base's {size}"
        return f"{message}: {names(beyond)}", Location("added_tokens.json", cut(beyond[0]))

    def file(self, path: str) -> RemoteFile | None:
        """The adapter's file at ``path``, or None."""
        return next((file for file in self.adapter.files if file.path == path), None)


@dataclass(frozen=True, slots=True)
class NotChecked:
    """A check could not decide."""

    reason: str


Check = Callable[[Case], Iterator[Problem | NotChecked]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One check. ``code`` is ``LC`` and three digits and never changes its meaning; ``name`` is a name for it.

    ``needs`` are the inputs of the check: if one is missing, the check is skipped with the reason, and never passes.
    """

    code: str
    name: str
    severity: Severity
    needs: tuple[Need, ...]
    check: Check

    @property
    def documentation(self) -> str:
        """The function's docstring: what is checked, *Why is this bad?* and *Fix*, as Markdown."""
        return getdoc(self.check) or ""

    @property
    def summary(self) -> str:
        """The first line of the documentation."""
        return self.documentation.partition("\n")[0]

    def matches(self, selector: str) -> bool:
        """Whether ``selector`` is the name of this rule, its code, or a prefix of its code (``LC3``)."""
        return selector.lower() == self.name or self.code.startswith(selector.upper())


def rule(code: str, name: str, severity: Severity, needs: tuple[Need, ...] = ()) -> Callable[[Check], Rule]:
    """The decorator that makes a function a rule; ``lora_cli.rules.RULES`` collects them."""
    return partial(Rule, code, name, severity, needs)


MOST_OUTCOMES = 200
"""How many findings of one rule about one adapter are reported; the rest is counted."""


def run(rule: Rule, case: Case) -> Iterator[Finding | Skipped]:
    """The findings of ``rule``, or one ``Skipped`` if an input is missing."""
    for need in rule.needs:
        reason = case.why_missing(need)
        if reason:
            yield Skipped(rule.code, rule.name, reason)
            return
    outcomes = rule.check(case)
    for outcome in islice(outcomes, MOST_OUTCOMES):
        yield _outcome(rule, outcome)
    yield from (_outcome(rule, outcome) for outcome in _counts_of_rest(outcomes))


def _outcome(rule: Rule, outcome: Problem | NotChecked) -> Finding | Skipped:
    if isinstance(outcome, NotChecked):
        return Skipped(rule.code, rule.name, cut(outcome.reason, LONGEST_MESSAGE))
    return Finding(rule.code, rule.name, rule.severity, clipped(outcome), None)


def _counts_of_rest(rest: Iterator[Problem | NotChecked]) -> Iterator[Problem | NotChecked]:
    """One entry with the number of the remaining problems, and one for those that were not checked."""
    counts = Counter(map(type, rest))
    if problems := counts[Problem]:
        yield Problem(f"there are {problems} more findings of this rule")
    if not_checked := counts[NotChecked]:
        yield NotChecked(f"{not_checked} more of these")


def clipped(problem: Problem) -> Problem:
    """``problem`` with all texts cut to ``LONGEST_MESSAGE``."""
    at = Location(cut(problem.at.file, LONGEST_MESSAGE), cut(problem.at.field, LONGEST_MESSAGE))
    return replace(
        problem, message=cut(problem.message, LONGEST_MESSAGE), at=at, hint=cut(problem.hint, LONGEST_MESSAGE)
    )


def shown(value: object) -> str:
    """A config value roughly as in JSON, shortened: strings are quoted."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return cut(f'"{value}"')
    # A long value is not formatted as a whole: a config may have lists of a hundred thousand names.
    begun = beginning(value, 2 * LONGEST_NAME)
    return cut(repr(value)) if len(begun) <= 2 * LONGEST_NAME else f"{begun[: LONGEST_NAME - 1]}…"


def shape(dims: Iterable[int]) -> str:
    """``[64, 8]``."""
    return f"[{', '.join(str(dim) for dim in dims)}]"


def grouped(messages: Iterable[tuple[str, str]], file: str, noun: str, hint: str) -> Iterator[Problem]:
    """One problem per message instead of one per module.

    ``messages`` are (message, name) pairs; a message for many names is reported once, with the first names. At most
    ``MOST_PROBLEMS`` are reported, and one more counts the rest. Without a ``file`` the names are those of files.
    """
    groups = list(by_key(messages).items())
    for message, found in groups[:MOST_PROBLEMS]:
        where = f" ({counted(len(found), noun)}: {names(found)})" if len(found) > 1 else f" ({cut(found[0])})"
        yield Problem(message + where, Location(file, cut(found[0])) if file else Location(cut(found[0])), hint)
    if len(groups) > MOST_PROBLEMS:
        rest = sum(len(found) for _, found in groups[MOST_PROBLEMS:])
        at = Location(file or cut(groups[-1][1][0]))
        yield Problem(f"the same for {counted(rest, 'more ' + noun)}", at, hint)
