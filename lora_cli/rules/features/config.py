"""Features that the config tells."""

import re
from collections.abc import Iterator

from lora_cli.core.finding import Location
from lora_cli.core.targets import ALL_LINEAR, targeted_in
from lora_cli.core.text import cut, names
from lora_cli.engines.landing import HEADS
from lora_cli.errors import FormatError
from lora_cli.rules.features.feature import Detect, Found, Served
from lora_cli.rules.wording import shown

REQUIRED = ("r", "lora_alpha", "target_modules")
CHANGES_BASE = re.compile(r"(?:pissa|olora|corda|loftq).*", re.IGNORECASE | re.DOTALL)
KNOWN = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})


def is_set(name: str) -> Detect:
    """The detector of a field that is set to something."""

    def detect(served: Served) -> Iterator[Found]:
        config = served.config
        value = None if config is None else config.mistyped.get(name, getattr(config, name))
        if config is not None and value not in (None, False, (), 0, "") and not (value == {} and name != "use_bdlora"):
            yield Found(f"{name} is {shown(value)}", Location(config.file, name))

    return detect


def bias(served: Served) -> Iterator[Found]:
    """``bias`` other than "none"."""
    config = served.config
    if config is not None and config.bias != "none":
        yield Found(f"bias is {shown(config.bias)}", Location(config.file, "bias"))


def lora_bias(served: Served) -> Iterator[Found]:
    """``lora_bias``, or a tensor ``lora_B.bias``."""
    yield from is_set("lora_bias")(served)
    if served.config is None or not served.config.lora_bias:
        held = [key.name for key in served.beside if key.part == "lora_bias"]
        if held:
            yield Found(f"there is {names(held)}", Location(served.case.weights_file, cut(held[0])))


def not_lora(served: Served) -> Iterator[Found]:
    """A ``peft_type`` that is missing or another one."""
    config = served.config
    if config is not None and config.peft_type != "LORA":
        said = "missing" if "peft_type" not in config.given else shown(config.peft_type)
        yield Found(f"peft_type is {said}", Location(config.file, "peft_type"))


def required_field_missing(served: Served) -> Iterator[Found]:
    """``r``, ``lora_alpha`` or ``target_modules`` is not in the file."""
    config = served.config
    missing = [name for name in REQUIRED if config is not None and name not in config.given]
    if config is not None and missing:
        yield Found(f"{names(missing)} {'is' if len(missing) == 1 else 'are'} missing", Location(config.file))


def init_changes_base(served: Served) -> Iterator[Found]:
    """An initialisation that changed the weights of the base which the adapter was trained on."""
    config = served.config
    how = config.init_lora_weights if config is not None else None
    if config is not None and isinstance(how, str) and CHANGES_BASE.fullmatch(how):
        yield Found(f"init_lora_weights is {shown(how)}", Location(config.file, "init_lora_weights"))


def init_not_known(served: Served) -> Iterator[Found]:
    """An initialisation by a name that vLLM does not have in its list, and that leaves the base as it was."""
    config = served.config
    how = config.init_lora_weights if config is not None else None
    if config is None or not isinstance(how, str) or CHANGES_BASE.fullmatch(how):
        return
    if how.lower() not in KNOWN:
        yield Found(f"init_lora_weights is {shown(how)}", Location(config.file, "init_lora_weights"))


def modules_to_save(served: Served) -> Iterator[Found]:
    """``modules_to_save`` that names more than a classification head."""
    config = served.config
    others = [name for name in (config.modules_to_save or ()) if name not in HEADS] if config is not None else []
    if config is not None and others:
        yield Found(f"modules_to_save has {names(others)}", Location(config.file, "modules_to_save"))


def targets_pattern(served: Served) -> Iterator[Found]:
    """``target_modules`` as one string that is not ``all`` or ``all-linear``."""
    config = served.config
    targets = config.target_modules if config is not None else None
    if config is not None and isinstance(targets, str) and targets not in {"all", ALL_LINEAR}:
        yield Found(f"target_modules is the string {shown(targets)}", Location(config.file, "target_modules"))


def targets_null(served: Served) -> Iterator[Found]:
    """``target_modules`` is null."""
    config = served.config
    if (
        config is not None
        and config.target_modules is None
        and "target_modules" in config.given - config.mistyped.keys()
    ):
        yield Found("target_modules is null", Location(config.file, "target_modules"))


def rslora(served: Served) -> Iterator[Found]:
    """rsLoRA, where it changes a scale: with rank 1 it does not."""
    config = served.config
    if config is not None and config.use_rslora and config.r > 1:
        right, wrong = config.lora_alpha / config.r**0.5, config.lora_alpha / config.r
        yield Found(
            f"use_rslora is true: the scale is {right:.4g}, and {wrong:.4g} without it",
            Location(config.file, "use_rslora"),
        )


def module_scales(served: Served) -> Iterator[Found]:
    """A module with another scale than the config's, because of ``rank_pattern`` or ``alpha_pattern``."""
    config, by_module = served.config, served.case.application.scaled.by_module
    if config is None or not by_module:  # with a rank of 0 there is no scale
        return
    common = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    other = [module for module, scale in by_module.items() if abs(scale.scaling - common) > 1e-9 * abs(common)]
    if other:
        yield Found(
            f"the scale of {cut(other[0])} is {by_module[other[0]].scaling:.4g}, and {common:.4g} without the "
            f"patterns ({len(other)} of {len(by_module)} modules)",
            Location(config.file, "alpha_pattern" if config.alpha_pattern else "rank_pattern"),
        )


def module_alphas(served: Served) -> Iterator[Found]:
    """A module with another alpha than the config's."""
    config, by_module = served.config, served.case.application.scaled.by_module
    if config is None:
        return
    other = [module for module, scale in by_module.items() if scale.lora_alpha != config.lora_alpha]
    if other:
        alpha = by_module[other[0]].lora_alpha
        yield Found(
            f"the alpha of {cut(other[0])} is {alpha:.4g}, and lora_alpha is {config.lora_alpha:.4g}",
            Location(config.file, "alpha_pattern"),
        )


def pattern_broken(served: Served) -> Iterator[Found]:
    """A key of ``rank_pattern`` or ``alpha_pattern`` that is no regular expression."""
    config, error = served.config, served.case.application.scaled.error
    patterned = config is not None and (config.rank_pattern or config.alpha_pattern) and config.r > 0
    if config is not None and patterned and error is not None:
        field = "rank_pattern" if config.rank_pattern else "alpha_pattern"
        yield Found(cut(error.reason), Location(config.file, field))


def number_mistyped(served: Served) -> Iterator[Found]:
    """``r`` or ``lora_alpha`` is there and no number, so that nothing can be divided."""
    config = served.config
    for name in ("r", "lora_alpha"):
        value = config.mistyped.get(name, 0) if config is not None else 0
        if config is not None and not isinstance(value, int | float):
            yield Found(f"{name} is {shown(value)}", Location(config.file, name))


def targets_nothing(served: Served) -> Iterator[Found]:
    """The config targets not one module of the base, or leaves it to PEFT, which has no default for the family."""
    config, base = served.case.application.adapter.config, served.case.base
    if config is None or base is None or config.target_parameters or config.trainable_token_indices:
        return
    at = Location(config.file, "target_modules")
    try:
        chosen = targeted_in(config, base)
    except FormatError:
        if config.target_modules is None and "target_modules" not in config.mistyped:
            yield Found(f"there is no target_modules, and PEFT has no default for {cut(base.model_type)}", at)
        return
    if not chosen:
        yield Found(f"target_modules is {shown(config.target_modules)}", at)
