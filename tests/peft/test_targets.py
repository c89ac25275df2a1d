"""Patterns read as ``re`` reads them, within one deadline and one size; targets, scales, and the heads of tasks."""

import re
import warnings
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.adapter.config import parse_config
from lora_cli.base.families import base_from_config
from lora_cli.errors import FormatError
from lora_cli.peft.targets import (
    COMPONENT,
    END,
    HEADS,
    LAYER,
    WHOLE,
    for_task,
    match,
    matching_keys,
    one_deadline,
    scales,
    targeted,
    targeted_in,
    timed,
)
from tests.base.configs import CONFIGS
from tests.base.oracle import facts
from tests.making import base_config, llama_modules

NAME = "model.layers.10.self_attn.q_proj"
SLOW = "".join(f"(?P<{group}>.*)" for group in "abcdefgh") + "".join(f"(?P={group})" for group in "hgfedcba") + "model"


def by_re(how: str, pattern: str, name: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        framed = how.replace("{}", pattern, 1)
        return (re.fullmatch if how == WHOLE else re.match)(framed, name) is not None


PIECES = (
    *("a", "b", "_", ".", "0", r"\.", r"\d", r"\w", r"\b", "^", "$", "*", "+", "?", "|", "(", ")", "(?:", "(?=", "(?!"),
    *("[", "]", "[^", "[ab]", "-", "{", "}", "{1}", "{1,2}", "{,1}", "{,}", "{e}", "(?i)", "(?<=a)", "(?P<n>", r"\1"),
    *("*?", "a++", r"\[", r"\]", r"\{", "&&", "--", "[:alpha:]", "\\", "layers", "q_proj", r".*\.q_proj", "(q|v)_proj"),
)


@settings(deadline=None, max_examples=600)
@given(
    st.sampled_from([WHOLE, END, COMPONENT, LAYER]),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=7).map("".join),
    st.text("ab_.0-[{}e:&\n", max_size=6) | st.sampled_from([NAME, "q_proj", "layersX1.q_proj", f"{NAME}\n"]),
)
def test_any_pattern_means_what_re_says(how: str, pattern: str, name: str) -> None:
    try:
        found = by_re(how, pattern, name)
    except re.error:
        with pytest.raises(FormatError, match="is not a regular expression"):
            match(how, pattern, name, "f")
        return
    # Those that the two libraries read differently may be refused.
    with suppress(*([FormatError] if re.search(r"\{|\[:", pattern) else [])):
        assert (match(how, pattern, name, "f") is not None) == found


KEYS = ["q_proj", "layers.1.q_proj", "layersX1Xq_proj", r".*\.k_proj", "k_proj", "", "q", "a.b", ".b", "mlp-0", "x\ty"]
MODULES = ["q_proj", "a.q_proj", "m.layers.1.q_proj", "m.layersX1Xq_proj", "k_proj", "m.k_proj", "", "aXb", "x.aXb"]
MODULES += ["m.mlp-0", ".b", "x."]


@pytest.mark.parametrize("keys", [KEYS, KEYS[::-1]])
def test_names_that_are_looked_up_match_as_the_patterns_that_they_are(keys: list[str]) -> None:
    assert matching_keys(keys, MODULES, "f") == {one: [key for key in keys if by_re(END, key, one)] for one in MODULES}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        *((one, "is not a regular expression") for one in ("*", "(", "a{2,1}", r"\8", "(?P<n>a)(?P<n>b)", "(" * 5_000)),
        *((one, "counts nothing") for one in ("x{e<=1}", "(?:abc){i}", "a{}", "a{x}", "{", "[[:alpha:]]", "[]a[]{x}")),
        *((one, "are too large") for one in ("(a{1000}){1000}", "((a{99}){99}){99}", "a" * 200_001, "(b{,99999}){3}")),
        (SLOW, r"matching takes longer than 0\.2 s"),
    ],
)
def test_what_cannot_be_matched_is_an_error(pattern: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_cli.peft.targets.LIMIT_S", 0.2)
    with pytest.raises(FormatError, match=message) as caught:
        match(WHOLE, pattern, NAME, "adapter_config.json: rank_pattern")
    assert caught.value.where == "adapter_config.json: rank_pattern"


def test_the_patterns_of_one_adapter_have_one_deadline_and_one_size() -> None:
    with one_deadline() as deadline:
        deadline.left_s = 0.2
        for pattern in (SLOW, r".*\d", "q_proj"):
            with pytest.raises(FormatError, match="takes longer than"), one_deadline():
                match(WHOLE, pattern, NAME, "f")
        with pytest.raises(FormatError, match="takes longer than"), timed("f"):
            pass
    with one_deadline() as deadline:
        deadline.left_s = 600.0
        for number in range(3):
            match(WHOLE, "a" * 60_000 + f"{number}+", "model", "f")
        with pytest.raises(FormatError, match="are too large"):
            match(WHOLE, "a" * 60_000 + "3+", "model", "f")


Q0, Q1 = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
LANGUAGE = "x.language_model.y.q_proj"

ERRORS: list[tuple[Any, dict[str, Any], str]] = [
    (scales, {"r": "8"}, 'adapter_config.json: r: must be an integer, not a string: "8"'),
    (scales, {"rank_pattern": {"q_proj": "4"}}, "adapter_config.json: rank_pattern: must be an integer"),
    (scales, {"r": 10**400, "use_rslora": True}, "adapter_config.json: r: must fit in a float, not 1000"),
    (scales, {"r": 0}, f"adapter_config.json: r: the rank must be positive, and is 0 for {Q0}"),
    (targeted, {"target_modules": ["q_proj", 1]}, "target_modules: must be a string, not an integer"),
    (targeted, {"target_modules": [], "modules_to_save": ["("]}, "modules_to_save: '(' is not a regular expression"),
    (targeted, {}, "PEFT has no default for an unknown model type"),
]


@pytest.mark.parametrize(("ask", "fields", "message"), ERRORS)
def test_nothing_is_guessed(ask: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        ask(parse_config(fields), [Q0, Q1])
    assert message in str(caught.value)


LINEAR = [Q0, "model.layers.0.self_attn.k_proj", "lm_head", "embed_out", "score", LANGUAGE]
TARGETED: list[tuple[dict[str, Any], str, set[str]]] = [
    ({}, "llama", {Q0, LANGUAGE}),
    ({"target_parameters": ["experts.down_proj"]}, "", set()),
    ({"target_modules": "ALL-LINEAR", "task_type": "SEQ_CLS"}, "", {*LINEAR} - {"lm_head", "embed_out", "score"}),
    ({"target_modules": ["q_proj", "score"], "modules_to_save": ["score", "language.model"]}, "", {Q0}),
]


@pytest.mark.parametrize(("fields", "model_type", "wanted"), TARGETED)
def test_the_modules_that_a_config_targets(fields: dict[str, Any], model_type: str, wanted: set[str]) -> None:
    assert targeted(parse_config(fields), LINEAR, linear=LINEAR, model_type=model_type) == wanted


def test_all_linear_leaves_out_the_heads_and_embeddings_of_a_base() -> None:
    base = base_from_config(base_config(), "base")
    assert targeted_in(parse_config({"target_modules": "all-linear"}), base) == {*llama_modules()}


CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
"""Task to the class of transformers that an adapter for it is trained on."""


@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("family", ["llama", "qwen3", "bert", "roberta", "gpt2", "gpt_neox", "opt", "bloom", "falcon"])
def test_a_base_has_the_modules_of_the_class_for_the_task(family: str, task: str) -> None:
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(family, **CONFIGS[family][0])
    auto = getattr(transformers, CLASSES[task])
    if type(config) not in auto._model_mapping:
        return
    with torch.device("meta"):
        modules = facts(auto.from_config(config))["modules"]
    inside = {path: one for path, one in modules.items() if path.partition(".")[0] not in HEADS.get(task, ())}
    base = base_from_config({"model_type": family, **CONFIGS[family][0]}, "base")
    assert for_task(base, task, tuple(inside)).modules == inside


def test_the_class_for_text_generation_is_the_base_itself() -> None:
    base = base_from_config(base_config(), "base")
    for task, named in (("CAUSAL_LM", ""), (None, ""), ("FEATURE_EXTRACTION", "model.layers.0.mlp.up_proj")):
        assert for_task(base, task, (named,)) is base
