"""What a rule is, the ``Case`` that it looks at, and how it words what it found."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from inspect import getdoc
from itertools import islice
from typing import Literal

from lora_cli.core.adapter import Adapter
from lora_cli.core.base_model import BaseModel
from lora_cli.core.companions import Companions
from lora_cli.core.engine_outcome import Deployment, EngineOutcome
from lora_cli.core.factors import divisors
from lora_cli.core.finding import Finding, Location, Problem, Severity, Skipped
from lora_cli.core.grouping import by_key
from lora_cli.core.lora_config import LoraConfig
from lora_cli.core.reference import AdapterRef
from lora_cli.core.safetensors import TensorStats
from lora_cli.core.snapshot import RemoteFile
from lora_cli.core.tensor_keys import Key
from lora_cli.core.text import LONGEST_NAME, beginning, counted, cut, names
from lora_cli.errors import FormatError
from lora_cli.rules.target_module_matching import Application

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
NO_BASE = "no base model was given"
LONGEST_MESSAGE = 2000
MOST_PROBLEMS = 20

Need = Literal["config", "weights", "base", "values", "companions"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was read of one adapter beyond its config and header.

    ``stats`` maps tensor names to what the scan of their values found; ``stats_reason`` says why there is none, and is
    empty if they were scanned. ``companions`` is what the files next to the weights say, None if no rule asks. ``ref``
    is what was asked for, and ``commit`` what that meant where it is a repository.
    """

    stats: Mapping[str, TensorStats] = field(default_factory=dict)
    stats_reason: str = "the values were not read"
    companions: Companions | None = None
    ref: AdapterRef | None = None
    commit: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One adapter before the rules.

    ``base`` is None if none was given. ``application`` sorts the adapter's modules by what PEFT would do with them.
    ``max_lora_rank`` is the limit of the engine that will serve it, None for no limit. ``outcomes`` are what the
    named engines do with it, deployed as ``deployment`` says.
    """

    adapter: Adapter
    application: Application
    evidence: Evidence = Evidence()
    base: BaseModel | None = None
    max_lora_rank: int | None = None
    outcomes: tuple[EngineOutcome, ...] = ()
    deployment: Deployment | None = None

    def lacks(self, need: str) -> str:
        """Why ``need`` (config, weights, base, values or companions) is not there, or nothing when it is."""
        foreign = f"it is {self.adapter.foreign.format.title}" if self.adapter.foreign is not None else ""
        weights = "" if self.has_weights else foreign or self.adapter.unread or "the weights could not be read"
        config = "" if self.adapter.config is not None else f"{CONFIG_FILE} could not be read"
        config = config if self.is_lora else foreign or config
        reasons = {
            "config": config,
            "weights": weights,
            "base": "" if self.base is not None else NO_BASE,
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
        """Whether the names and shapes of the adapter's tensors are known, and those of a LoRA."""
        adapter = self.adapter
        return adapter.foreign is None and adapter.weights_error is None and bool(adapter.weight_files)

    def in_weights(self, name: str = "") -> Location:
        """The location of a tensor or a module in the weights."""
        return Location(self.weights_file, cut(name))

    def in_config(self, field: str = "") -> Location:
        """The location of a field in the config, for a rule that needs it."""
        return Location(self.config.file, field)

    @property
    def weights_file(self) -> str:
        """The file to point at when something is wrong with a tensor."""
        return self.adapter.weight_files[0] if self.adapter.weight_files else WEIGHTS_FILE

    def narrowed(self) -> Mapping[str, tuple[int, int]]:
        """By what A's and B's columns are divided, where it is not LoRA's own shape: see ``core.factors``."""
        config = self.adapter.config
        if config is None or (config.use_bdlora is None and not config.use_qalora):
            return {}
        gptq = self.base is not None and "quantised: gptq" in self.base.source
        try:
            divided = divisors(config, gptq=gptq)
            return {module: divided(module) for module in self.application.adapter.pairs}
        except FormatError:  # PEFT refuses the config, which LC209 says
            return {}

    def other_tensors(self) -> Iterator[Key]:
        """The tensors that are no factor of any module: saved modules, trained tokens, biases."""
        factors = {factor.name for pair in self.adapter.pairs.values() for factor in pair.factors}
        return (key for name, key in self.adapter.keys.items() if name not in factors)

    def tokens_beyond_vocabulary(self) -> tuple[str, Location] | None:
        """The message if ``added_tokens.json`` has ids beyond the base's vocabulary."""
        size = self.base.vocab_size if self.base is not None else None
        companions = self.evidence.companions
        added = (companions.added_tokens or {}) if companions is not None else {}
        beyond = sorted(token for token, index in added.items() if size is not None and index >= size)
        if not beyond:
            return None
        said = f"{counted(len(beyond), 'added token has', 'added tokens have')} an id beyond the base's {size}"
        return f"{said}: {names(beyond)}", Location("added_tokens.json", cut(beyond[0]))

    def file(self, path: str) -> RemoteFile | None:
        """The adapter's file at ``path``, or None."""
        return next((file for file in self.adapter.files if file.path == path), None)


@dataclass(frozen=True, slots=True)
class NotChecked:
    """What a check yields when it cannot decide."""

    reason: str


Check = Callable[[Case], Iterator[Problem | NotChecked]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One check. ``code`` is ``LC`` and three digits and never changes its meaning; ``name`` is the same in words.

    ``needs`` are the things the check reads: without them it is skipped, with the reason, and never passes.
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
        """Whether ``selector`` means this rule: its name, or its code or the beginning of it (``LC3``)."""
        return selector.lower() == self.name or self.code.startswith(selector.upper())


def rule(code: str, name: str, severity: Severity, needs: tuple[Need, ...] = ()) -> Callable[[Check], Rule]:
    """Make a rule of the function below; it runs once it is in ``lora_cli.rules.RULES``."""

    def made(check: Check) -> Rule:
        return Rule(code, name, severity, needs, check)

    return made


MOST_OUTCOMES = 200
"""Findings of one rule about one adapter that are reported one by one; of the rest there is a count."""


def run(rule: Rule, case: Case) -> Iterator[Finding | Skipped]:
    """What ``rule`` says about ``case``: its findings, or one ``Skipped`` when it cannot see what it needs."""
    for need in rule.needs:
        reason = case.lacks(need)
        if reason:
            yield Skipped(rule.code, rule.name, reason)
            return
    said = rule.check(case)
    for outcome in islice(said, MOST_OUTCOMES):
        yield _outcome(rule, outcome)
    yield from (_outcome(rule, outcome) for outcome in _counted(said))


def _outcome(rule: Rule, said: Problem | NotChecked) -> Finding | Skipped:
    if isinstance(said, NotChecked):
        return Skipped(rule.code, rule.name, cut(said.reason, LONGEST_MESSAGE))
    return Finding(rule.code, rule.name, rule.severity, clipped(said), None)


def _counted(rest: Iterator[Problem | NotChecked]) -> Iterator[Problem | NotChecked]:
    """How many are left of each."""
    unseen = problems = 0
    for said in rest:
        unseen, problems = unseen + isinstance(said, NotChecked), problems + isinstance(said, Problem)
    if problems:
        yield Problem(f"there are {problems} more findings of this rule")
    if unseen:
        yield NotChecked(f"there are {unseen} more of these")


def clipped(problem: Problem) -> Problem:
    """``problem``, with no text in it longer than ``LONGEST_MESSAGE``."""
    at = Location(cut(problem.at.file, LONGEST_MESSAGE), cut(problem.at.field, LONGEST_MESSAGE))
    return Problem(cut(problem.message, LONGEST_MESSAGE), at, cut(problem.hint, LONGEST_MESSAGE), problem.by)


def shown(value: object) -> str:
    """A config value as JSON wrote it, near enough: short, with strings in quotes."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return cut(f'"{value}"')
    # Only what is short is written as Python has it: a config holds lists of a hundred thousand names.
    begun = beginning(value, 2 * LONGEST_NAME)
    return cut(repr(value)) if len(begun) <= 2 * LONGEST_NAME else f"{begun[: LONGEST_NAME - 1]}…"


def shape(dims: Iterable[int]) -> str:
    """``[64, 8]``."""
    return f"[{', '.join(str(dim) for dim in dims)}]"


def grouped(said: Iterable[tuple[str, str]], file: str, noun: str, hint: str) -> Iterator[Problem]:
    """One problem per message instead of one per module.

    ``said`` are (message, name) pairs; a message that holds for many names is reported once, with the first names. At
    most ``MOST_PROBLEMS`` are given, the last of which counts the rest. Without a ``file`` the names are those of
    files.
    """
    by_message = by_key(said)
    messages = list(by_message)
    for message in messages[:MOST_PROBLEMS]:
        found = by_message[message]
        whose = f" ({counted(len(found), noun)}: {names(found)})" if len(found) > 1 else f" ({cut(found[0])})"
        yield Problem(message + whose, Location(file, cut(found[0])) if file else Location(cut(found[0])), hint)
    if len(messages) > MOST_PROBLEMS:
        rest = sum(len(by_message[message]) for message in messages[MOST_PROBLEMS:])
        yield Problem(
            f"the same for {counted(rest, 'more ' + noun)}",
            Location(file or cut(by_message[messages[-1]][0])),
            hint,
        )
