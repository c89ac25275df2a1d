"""A config's regular expressions: read as ``re`` reads them, within one deadline and one size."""

import re
import warnings
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.errors import FormatError
from lora_cli.peft.targets import (
    COMPONENT,
    END,
    LAYER,
    WHOLE,
    Endings,
    endings,
    match,
    matching_keys,
    one_deadline,
    timed,
)

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


def test_a_module_ends_in_a_name_after_a_dot() -> None:
    assert list(endings("a.b.c")) == ["a.b.c", "b.c", "c"]
    names = Endings(["q_proj", "a.b", ""])
    assert all(one in names for one in ("q_proj", "x.q_proj", "x.a.b", "x."))
    assert not any(one in names for one in ("xq_proj", "a.b.x", "a.xb"))


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
        deadline.left_s = 60.0
        for number in range(3):
            match(WHOLE, "a" * 60_000 + f"{number}+", "model", "f")
        with pytest.raises(FormatError, match="are too large"):
            match(WHOLE, "a" * 60_000 + "3+", "model", "f")
