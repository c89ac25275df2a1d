"""LC31x: the adapter compared with the base model."""

import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from itertools import accumulate

from lora_cli.base.base_model import OTHER_BASE
from lora_cli.finding import Applied, Problem, Severity
from lora_cli.refs.reference import cached_repository, hub_words
from lora_cli.rules.rule import Case, NotChecked, grouped, rule
from lora_cli.text import counted, cut, names

LONGEST_ENDING = 8
COPY = re.compile(
    r"-(?:unsloth|bnb|[48]bit|awq|gptq|gguf|u?int[48]|n?v?fp[48]|dynamic|hf|quantized\.w\d{1,2}a\d{1,2})$"
)
"""Ends of the names of quantised and converted copies of a model, in lower case."""

VARIANT = re.compile(r"-(?:base|pt|instruct|it|chat)$")
"""Ends of the names of a model's pretrained and tuned versions, in lower case."""

LONGEST_NAME = 96
"""Characters of a repository's name on the Hub, without its organisation."""

FAMILY = re.compile(r"llama|(?<![a-z])(?:qwen|mistral|mixtral|gemma|falcon|bloom)(?![a-z])")
"""Families whose models have their ``model_type`` in the name."""

NOT_STACKED = "its experts do not fit the base's fused experts, see LC317"


@rule("LC311", "nothing-applies", Severity.ERROR, needs=("weights", "base"))
def nothing_applies(case: Case) -> Iterator[Problem]:
    """None of the adapter's modules exists in the base: it changes nothing.

    *Why is this bad?* PEFT drops the tensors silently, and engines return 200 and serve the base model.

    *Fix*: validate against the base that it was trained on; ``lora-cli repair`` corrects the names if a wrapper changed
    them.
    """
    application = case.application
    total = application.applied.total
    if total and not application.matched:
        assert case.base is not None
        first = next(iter(case.application.adapter.pairs))
        modules = f"the base has modules like {names(list(case.base.modules), 2)}"
        yield Problem(
            f"0 of {counted(total, 'module')} apply to {cut(case.base.name)}: {application.reasons()}",
            case.in_weights(first),
            NOT_STACKED if _all_are_experts(case) else _hint(case, first) or f"{_fix(case)}; {modules}",
        )


def _fix(case: Case) -> str:
    """The hint to use the right base, with its name if the config has another one."""
    trained = _other_base(case)
    return f"{OTHER_BASE}, {cut(trained)}" if trained else OTHER_BASE


def _hint(case: Case, module: str, taken: Container[str] = ()) -> str:
    """A hint that names the base's module with the longest common ending; empty if it is ``taken`` or there is none.

    An ending has at least two parts, and the number of the layer if the name has one.
    """
    assert case.base is not None
    parts = module.split(".")[-LONGEST_ENDING:]
    number = next((at for at, part in enumerate(parts) if part.isdecimal()), len(parts))
    for start in range(min(number, len(parts) - 2) + 1):
        ending = "." + ".".join(parts[start:])
        similar = next((name for name in case.base.modules if name.endswith(ending)), None)
        if similar in taken:
            return ""
        if similar is not None:
            fix = "if it is the same model, `lora-cli repair --base` corrects the names"
            return f"{_fix(case)}; this base calls the module {similar}: {fix}"
    return ""


@rule("LC312", "partly-applied", Severity.ERROR, needs=("weights", "base"))
def partly_applied(case: Case) -> Iterator[Problem]:
    """Some of the adapter's modules exist in the base, others do not.

    *Why is this bad?* The rest is dropped silently, and the served adapter is not the one that was trained.

    *Fix*: validate against the base that it was trained on.
    """
    application = case.application
    if application.matched and application.absent:
        assert case.base is not None
        hint = _hint(case, application.absent[0], application.adapter.pairs) or _fix(case)
        yield Problem(
            f"only {application.applied.matched} of {counted(application.applied.total, 'module')} apply: the base has "
            f"no {names(application.absent)}",
            case.in_weights(application.absent[0]),
            NOT_STACKED if _all_are_experts(case) else hint,
        )


def _all_are_experts(case: Case) -> bool:
    """Whether all absent modules are experts that PEFT cannot stack for the base's fused experts."""
    application = case.application
    if application.refused is not None:
        return all(".experts." in module for module in application.absent)
    containers = {container for _, container in application.unfit}
    return bool(containers) and all(
        any(above in containers for above in accumulate(module.split(".")[:-1], "{}.{}".format))
        for module in application.absent
    )


@rule("LC313", "layer-out-of-range", Severity.ERROR, needs=("weights", "base"))
def layer_out_of_range(case: Case) -> Iterator[Problem]:
    """The adapter has tensors for layers that the base does not have.

    *Why is this bad?* It was trained on a deeper model. PEFT and vLLM drop the layers silently, SGLang fails.

    *Fix*: validate against the base that it was trained on.
    """
    application = case.application
    if application.beyond:
        assert case.base is not None
        has = f"layers 0 to {case.base.num_layers - 1}" if case.base.num_layers > 1 else "layer 0 only"
        yield Problem(
            f"{counted(len(application.beyond), 'module is', 'modules are')} in layers that the base does not have "
            f"(it has {has}): {names(application.beyond)}",
            case.in_weights(application.beyond[0]),
            _fix(case),
            causes=_if_nothing_fits(case),
        )


@rule("LC314", "shape-mismatch", Severity.ERROR, needs=("config", "weights", "base"))
def shape_mismatch(case: Case) -> Iterator[Problem | NotChecked]:
    """A's columns or B's rows are not the input or output width of the module in the base.

    *Why is this bad?* PEFT refuses it. vLLM copies a tensor that is too small into the corner of its buffer and
    serves the rest as zeros: an adapter of a narrower model of the same family loads without an error.

    *Fix*: validate against the base that it was trained on (note grouped-query attention: k and v are narrower).
    """
    if case.unserved_variant:
        yield NotChecked(f"{case.unserved_variant} is set, which no engine serves: shapes are not checked")
    found = case.misshapen
    if 1 < len(found) == len(case.application.expected):
        first, differences = next(iter(found.items()))
        yield Problem(
            f"none of the {len(found)} modules has the base's widths: in {cut(first)} {'; '.join(differences)}",
            case.in_weights(first),
            _fix(case),
        )
        return
    messages = [(message, module) for module, differences in found.items() for message in differences]
    yield from grouped(messages, case.weights_file, "module", _fix(case))


def fitting(case: Case, named: Applied, modules: Iterable[str]) -> Applied:
    """``named``, the count of ``modules`` that apply by their names, without those that have other widths."""
    return replace(named, matched=named.matched - len(case.misshapen.keys() & {*modules}))


def _if_nothing_fits(case: Case) -> tuple[str, ...]:
    """The rules that report that no module fits the base, if none does: other differences follow from that."""
    fits = set(case.application.matched) - case.misshapen.keys()
    return () if fits else ("LC311", "LC314")


@rule("LC315", "targets-without-tensors", Severity.ERROR, needs=("config", "weights", "base"))
def targets_without_tensors(case: Case) -> Iterator[Problem]:
    """The config targets modules of the base that the weights have no tensors for.

    *Why is this bad?* PEFT leaves these modules as they are, with a log line: a part of the adapter is missing, or it
    was trained on a base with fewer layers or other names.

    *Fix*: save the adapter again; if only some layers were trained, list them in ``layers_to_transform``.
    """
    missing = case.application.missing
    if missing and case.application.matched:
        yield Problem(
            f"the config targets {counted(len(missing), 'module')} of the base without tensors: {names(missing)}",
            case.in_config("target_modules"),
            "if only these layers were trained, list them in layers_to_transform; otherwise save the adapter again",
            causes=_if_nothing_fits(case),
        )


@rule("LC317", "experts-not-fused", Severity.ERROR, needs=("config", "weights", "base"))
def experts_not_fused(case: Case) -> Iterator[Problem]:
    """Separate experts (``experts.0.w1``), as in transformers 4, do not fit the base's fused experts.

    *Why is this bad?* PEFT stacks the factors of all experts when it loads them on a model of transformers 5. It
    refuses or silently drops those that do not stack. Engines with separate experts may still serve it.

    *Fix*: train the projections of all experts, with one rank; or load the adapter with transformers 4.
    """
    hint = "target all projections of all experts with one rank, or load the adapter with transformers 4"
    refused, unfit = case.application.refused, case.application.unfit
    if refused is not None:
        yield Problem(cut(refused.reason), case.in_config("target_modules"), hint)
    yield from grouped(unfit, case.weights_file, "module", hint)


@rule("LC324", "other-base", Severity.WARNING, needs=("config", "base"))
def other_base(case: Case) -> Iterator[Problem]:
    """The config has a different base from the one that the adapter is validated against.

    *Why is this bad?* A model and its instruct version, and many models of one size, have the same shapes: the adapter
    loads on either, and changes a model that it was not trained on.

    *Fix*: use the base of the config. If the config is wrong, ``lora-cli repair --base-name ORG/NAME`` writes
    the right one into a copy. Mirrors and quantised copies of one model count as the same. A base in a folder
    is compared by its family, and by the folder's name if that ends in ``-instruct``, ``-chat``, ``-it`` or ``-base``.
    """
    base = case.base
    assert base is not None
    if trained := _other_base(case):
        yield Problem(
            f"it was trained on {cut(trained)}, but is validated against {cut(base.repository or base.name)}"
            + ("" if base.repository else f", a {base.model_type}"),
            case.in_config("base_model_name_or_path"),
            OTHER_BASE,
            causes=("LC311", "LC312", "LC313", "LC314"),
        )


def _other_base(case: Case) -> str:
    """The base in the config if it is another one than that of the case; empty if it is not known to be."""
    config, base = case.adapter.config, case.base
    trained = (config.base_model_name_or_path if config is not None else None) or ""
    if not trained or base is None:
        return ""
    cached = cached_repository(trained)
    name = _model_name(trained if cached is None else cached[0])
    if base.repository and (cached or hub_words(trained)):
        return trained if name != _model_name(base.repository) else ""
    folder = _model_name(base.name.rstrip("/").removesuffix("/config.json"))
    if name != folder and VARIANT.search(folder) and VARIANT.sub("", name) == VARIANT.sub("", folder):
        return trained
    families, family = set(FAMILY.findall(name)), set(FAMILY.findall(base.model_type))
    return trained if families and family and not families & family else ""


def _model_name(repository: str) -> str:
    """A model's name without its organisation and marks of a copy; Llama 3 models have two names."""
    name = repository.rpartition("/")[2].lower()[:LONGEST_NAME]
    while (shorter := COPY.sub("", name)) != name:
        name = shorter
    return name.removeprefix("meta-")
