"""LC31x: the adapter beside the base model that it is to be put on."""

from collections.abc import Iterator

from lora_cli.core.adapter import LoraPair
from lora_cli.core.base_model import BaseModel, BaseModule
from lora_cli.core.finding import Location, Problem, Severity
from lora_cli.rules.case import Case
from lora_cli.rules.rule import NotChecked, rule
from lora_cli.rules.wording import clip, count, grouped, names, shape

LONGEST_ENDING = 8
OTHER_BASE = "validate against the base that it was trained on"


@rule("LC311", "nothing-applies", Severity.ERROR, needs=("weights", "base"))
def nothing_applies(case: Case) -> Iterator[Problem]:
    """Not one of the adapter's modules exists in the base: it changes nothing.

    *Why is this bad?* PEFT drops the tensors without a word, and engines answer 200 and serve the base model.

    *Fix*: validate against the base that it was trained on; correct the names if a wrapper changed them.
    """
    application = case.application
    total = application.applied.total
    if total and not application.matched:
        assert case.base is not None
        first = next(iter(case.application.adapter.pairs))
        yield Problem(
            f"0 of {count(total, 'module')} apply to {clip(case.base.name)}: {application.reasons()}",
            Location(case.weights_file, clip(first)),
            f"{OTHER_BASE}; {_namesake(first, case.base)}",
        )


def _namesake(module: str, base: BaseModel) -> str:
    """What the base calls the module that ends like ``module``, or a few of its names."""
    parts = module.split(".")[-LONGEST_ENDING:]
    for length in range(len(parts) - 1, 1, -1):
        ending = "." + ".".join(parts[-length:])
        similar = next((name for name in base.modules if name.endswith(ending)), None)
        if similar is not None:
            return f"this one calls it {similar}: if it is the same model, correct the names"
    return f"this one has modules like {names(list(base.modules), 2)}"


@rule("LC312", "partly-applied", Severity.ERROR, needs=("weights", "base"))
def partly_applied(case: Case) -> Iterator[Problem]:
    """Some of the adapter's modules exist in the base, others do not.

    *Why is this bad?* The rest is dropped without a word, and what is served is an adapter that nobody trained.

    *Fix*: validate against the base that it was trained on.
    """
    application = case.application
    if application.matched and application.absent:
        yield Problem(
            f"only {application.applied.matched} of {count(application.applied.total, 'module')} apply: the base has "
            f"no {names(application.absent)}",
            Location(case.weights_file, clip(application.absent[0])),
            OTHER_BASE,
        )


@rule("LC313", "layer-out-of-range", Severity.ERROR, needs=("weights", "base"))
def layer_out_of_range(case: Case) -> Iterator[Problem]:
    """The adapter has tensors for layers that the base does not have.

    *Why is this bad?* It was trained on a deeper model. PEFT and vLLM drop the layers without a word, SGLang fails.

    *Fix*: validate against the base that it was trained on.
    """
    application = case.application
    if application.beyond:
        assert case.base is not None
        has = f"layers 0 to {case.base.num_layers - 1}" if case.base.num_layers > 1 else "layer 0 only"
        yield Problem(
            f"{count(len(application.beyond), 'module is', 'modules are')} in layers that the base does not have "
            f"(it has {has}): {names(application.beyond)}",
            Location(case.weights_file, clip(application.beyond[0])),
            OTHER_BASE,
        )


@rule("LC314", "shape-mismatch", Severity.ERROR, needs=("config", "weights", "base"))
def shape_mismatch(case: Case) -> Iterator[Problem | NotChecked]:
    """A's columns or B's rows are not the input or output width of the module in the base.

    *Why is this bad?* PEFT refuses it. vLLM copies a tensor that is too small into the corner of its buffer and
    serves the rest as zeros: an adapter of a narrower model of the same family loads without an error.

    *Fix*: validate against the base that it was trained on (mind grouped-query attention: k and v are narrower).
    """
    config = case.adapter.config
    assert config is not None
    if config.use_qalora or config.use_bdlora:
        yield NotChecked("QALoRA and BD-LoRA change the shape of A and B; those shapes are not known here")
        return
    said = []
    for module, wanted in case.application.expected.items():
        pair = case.application.adapter.pairs[module]
        told = [list(_differences(pair, one)) for one in wanted]
        if all(told):
            said += [(message, module) for message in told[0]]
    yield from grouped(said, file=case.weights_file, noun="module", hint=OTHER_BASE)


def _differences(pair: LoraPair, wanted: BaseModule) -> Iterator[str]:
    if pair.embedding != (wanted.kind == "embedding"):
        mine, its = ("an embedding", "a linear layer") if pair.embedding else ("a linear layer", "an embedding")
        yield f"the tensors are those of {mine}, the base has {its} there"
        return
    infix = "embedding_" if pair.embedding else ""
    if pair.a is not None and len(pair.a.shape) == 2 and pair.a.shape[1] != wanted.d_in:
        yield f"lora_{infix}A is {shape(pair.a.shape)}, the base needs [r, {wanted.d_in}]"
    if pair.b is not None and len(pair.b.shape) == 2 and pair.b.shape[0] != wanted.d_out:
        yield f"lora_{infix}B is {shape(pair.b.shape)}, the base needs [{wanted.d_out}, r]"


@rule("LC315", "targets-without-tensors", Severity.ERROR, needs=("config", "weights", "base"))
def targets_without_tensors(case: Case) -> Iterator[Problem]:
    """The config targets modules of the base that the weights have no tensors for.

    *Why is this bad?* PEFT leaves these modules as they are, with a log line: a part of the adapter is missing, or it
    was trained on a base with fewer layers or other names.

    *Fix*: save the adapter again; if only some layers were trained, say so in ``layers_to_transform``.
    """
    missing = case.application.missing
    if missing and case.application.matched:
        config = case.adapter.config
        assert config is not None
        yield Problem(
            f"the config targets {count(len(missing), 'module')} of the base without tensors: {names(missing)}",
            Location(config.file, "target_modules"),
            "if only these layers were trained, name them in layers_to_transform; otherwise save the adapter again",
        )


@rule("LC316", "saved-module-missing", Severity.ERROR, needs=("config", "weights", "base"))
def saved_module_missing(case: Case) -> Iterator[Problem]:
    """``modules_to_save`` names a module of the base, or ``trainable_token_indices`` tokens, that the weights lack.

    *Why is this bad?* PEFT looks for its tensors and fails; an engine that does not look serves the base's own module
    where a trained one belongs.

    *Fix*: save the adapter again, or leave the module out of ``modules_to_save`` if it was not trained.
    """
    config, base = case.adapter.config, case.base
    assert config is not None
    assert base is not None
    saved = tuple(key.module for key in case.adapter.keys.values() if key.part == "saved")
    # Ends, not patterns: so PEFT chooses the modules to save.
    missing = [
        name
        for name in dict.fromkeys(config.modules_to_save or ())
        if any(module.endswith(name) for module in base.modules) and not any(one.endswith(name) for one in saved)
    ]
    if missing:
        yield Problem(
            f"{names(missing)} of modules_to_save {'is' if len(missing) == 1 else 'are'} in the base, and the weights "
            "hold nothing of it",
            Location(config.file, "modules_to_save"),
            "save the adapter again, or take out what was not trained",
        )
    if config.trainable_token_indices and not any(key.part == "trainable_tokens" for key in case.adapter.keys.values()):
        yield Problem(
            "trainable_token_indices names tokens, and the weights do not hold them",
            Location(config.file, "trainable_token_indices"),
            "save the adapter again, or take the field out",
        )


@rule("LC317", "experts-not-fused", Severity.ERROR, needs=("config", "weights", "base"))
def experts_not_fused(case: Case) -> Iterator[Problem]:
    """Experts one by one (``experts.0.w1``), as transformers 4 had them, do not fit on the base's fused experts.

    *Why is this bad?* PEFT stacks the factors of all experts when it loads them on a model of transformers 5. What
    does not stack, it refuses, or drops without a word. Engines that keep experts apart may serve it all the same.

    *Fix*: train the projections of all experts, with one rank; or load the adapter with transformers 4.
    """
    config = case.adapter.config
    assert config is not None
    hint = "target all projections of all experts with one rank, or load it with transformers 4"
    refused, unfit = case.application.refused, case.application.unfit
    if refused is not None:
        yield Problem(clip(refused.reason), Location(config.file, "target_modules"), hint)
    yield from grouped(unfit, file=case.weights_file, noun="module", hint=hint)
