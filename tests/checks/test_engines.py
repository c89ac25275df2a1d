"""Which profile a name and a version mean, and what the profiles list."""

from dataclasses import replace

import pytest

from lora_cli.base.families import FAMILIES
from lora_cli.engines import BUILT, ENGINES, IA3_FAMILIES, choose_engine
from lora_cli.engines.vllm import EMBEDDINGS, LISTED, NO_LORA
from lora_cli.errors import UsageError

NEWEST = ENGINES["vllm"].versions[-1]


@pytest.mark.parametrize(
    ("text", "version", "note", "proven"),
    [
        ("vllm", NEWEST, "", True),
        ("vllm@0.32.1", "0.32", "", True),
        ("vLLM@v0.32.0rc1+cu129", "0.32", "", True),
        ("vllm@0.40", NEWEST, f"newer than the newest profile: validated as {NEWEST}", True),
        ("vllm@0.31.1", "0.32", "older than the oldest profile (0.32), which is used instead and may differ", False),
        ("sglang@0.5.23", "0.5.23", "", True),
        ("peft@0.21.2", "0.21", "", True),
    ],
)
def test_a_version_means_a_profile(text: str, version: str, note: str, proven: bool) -> None:
    profile = choose_engine(text)

    assert (profile.version, profile.note, profile.proven) == (version, note, proven)


def test_a_version_between_two_profiles_is_judged_by_the_older(monkeypatch: pytest.MonkeyPatch) -> None:
    gap = replace(ENGINES["vllm"], versions=("0.30", "0.33"))
    monkeypatch.setattr("lora_cli.engines.ENGINES", {"vllm": gap})

    profile = choose_engine("vllm@0.32.2")

    assert (profile.version, profile.note) == ("0.30", "between two profiles: validated as 0.30")


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("vlm", "unknown engine", "did you mean vllm?"),
        ("vllm==0.33", "unknown engine", "did you mean vllm@0.33?"),
        ("x", "unknown engine", "known: peft"),
        ("vllm@", "is not a version of vLLM", f"for example vllm@{NEWEST}"),
        ("vllm@latest", "is not a version of vLLM", f"for example vllm@{NEWEST}"),
    ],
)
def test_what_is_no_engine_or_no_version_is_an_error_with_the_nearest(text: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        choose_engine(text)
    assert caught.value.hint.startswith(hint)


def test_no_family_is_listed_twice() -> None:
    assert LISTED & (FAMILIES.keys() | NO_LORA | EMBEDDINGS.keys()) == set()


def test_what_peft_builds_and_has_defaults_for_is_what_the_real_one_does() -> None:
    from peft import PeftType
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as DEFAULTS

    assert set(PeftType) >= BUILT
    assert {family for family in DEFAULTS if family[0].islower()} == IA3_FAMILIES
