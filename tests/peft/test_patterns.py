"""A config's regular expressions: read as ``re`` reads them, within one budget of time and size."""

import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lora_cli.errors import FormatError
from lora_cli.peft.patterns import Endings, Matcher, endings, matching_keys, one_budget

NAME = "model.layers.10.self_attn.q_proj"
SLOW = "".join(f"(?P<{group}>.*)" for group in "abcdefgh") + "".join(f"(?P={group})" for group in "hgfedcba") + "model"

WAYS: dict[str, tuple[Callable[[Matcher, str, str], object], str]] = {
    "full": (Matcher.full, r"(?:{})\Z"),
    "dotted_end": (Matcher.dotted_end, r"(.*\.)?({})$"),
    "component": (Matcher.component, r"(^|.*\.){}($|\..*)"),
}
"""A way to match, and what PEFT gives to ``re.match`` for it."""

NAMES = [
    "q_proj",
    NAME,
    "self_attn",
    "layers.10",
    "selfXattn.q_proj",
    "layers.10.self.attn.q_proj",
    "mlp-0",
    "",
    ".",
    "q",
]
PATTERNS = [r".*\.q_proj", r"model\.layers\.\d+\..*(q|v)_proj", "q_proj|k_proj", r"(?!model).*", r"(?<=\.)q_proj"]
BRACES = ["a{,2}", "a{,}", r"a\{1", "[a{1}]", "[[a]", "[]a[][^]b]"]
TEXTS = ["x", "y", "abc", "abxc", "a", "aa", "aaa", "a{}", "x{e<=1}", "a{x}", "a{1", "{", "[", "a\n", "", "a[{x}c"]


def by_re(frame: str, pattern: str, name: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return re.match(frame.replace("{}", pattern, 1), name) is not None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pattern", [*NAMES, *PATTERNS, *BRACES])
def test_a_pattern_matches_what_peft_finds_with_re(way: str, pattern: str) -> None:
    match, frame = WAYS[way]
    for name in [*NAMES, *TEXTS, f"{NAME}\n", "a\nq_proj"]:
        assert match(Matcher("f"), pattern, name) == by_re(frame, pattern, name), name


PIECES = (
    *("a", "b", "_", ".", "0", r"\.", r"\d", r"\w", r"\b", "^", "$", "*", "+", "?", "|", "(", ")", "(?:", "(?=", "(?!"),
    *("[", "]", "[^", "[ab]", "-", "{", "}", "{1}", "{1,2}", "{,1}", "{,}", "{e}", "(?i)", "(?<=a)", "(?P<n>", r"\1"),
    *("*?", "a++", r"\[", r"\]", r"\{", "&&", "--", "[:alpha:]", "\\"),
)


@settings(deadline=None, max_examples=600)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=7).map("".join), st.text("ab_.0-[{}e:&", max_size=6))
def test_any_pattern_means_what_re_says(pattern: str, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = re.fullmatch(pattern, name)
        except re.error:
            with pytest.raises(FormatError, match="is not a regular expression"):
                Matcher("f").full(pattern, name)
            return
        if re.search(r"\{|\[:", pattern):
            with suppress(FormatError):  # those that the two libraries read differently
                assert Matcher("f").full(pattern, name) == (found is not None)
            return
        assert Matcher("f").full(pattern, name) == (found is not None)
        try:
            framed = by_re(WAYS["dotted_end"][1], pattern, name)
        except re.error:
            assume(False)
            raise
        assert Matcher("f").dotted_end(pattern, name) == framed


def test_the_layer_is_the_number_behind_the_pattern() -> None:
    assert [Matcher("f").layer_index(pattern, NAME) for pattern in ("layers", "l.*s", "h")] == [10, 10, None]


KEYS = ["q_proj", "layers.1.q_proj", "layersX1Xq_proj", r".*\.k_proj", "k_proj", "", "q", "a.b", ".b", "mlp-0", "x\ty"]
MODULES = ["q_proj", "a.q_proj", "m.layers.1.q_proj", "m.layersX1Xq_proj", "k_proj", "m.k_proj", "", "aXb", "x.aXb"]
MODULES += ["m.mlp-0", ".b", "x."]


@pytest.mark.parametrize("keys", [KEYS, KEYS[::-1]])
def test_names_that_are_looked_up_match_as_the_patterns_that_they_are(keys: Sequence[str]) -> None:
    wanted = {one: [key for key in keys if by_re(WAYS["dotted_end"][1], key, one)] for one in MODULES}
    assert matching_keys(keys, MODULES, "f") == wanted


def test_a_module_ends_in_a_name_after_a_dot() -> None:
    assert list(endings("a.b.c")) == ["a.b.c", "b.c", "c"]
    names = Endings(["q_proj", "a.b"])
    assert [one in names for one in ("q_proj", "x.q_proj", "xq_proj", "x.a.b", "a.b.x", "a.xb", "")] == [
        *(True, True, False, True, False, False, False),
    ]
    assert not names.ends("q_proj")


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
    monkeypatch.setattr("lora_cli.peft.patterns.TIME_LIMIT_S", 0.2)
    with pytest.raises(FormatError, match=message) as caught:
        Matcher("adapter_config.json: rank_pattern").full(pattern, NAME)
    assert caught.value.where == "adapter_config.json: rank_pattern"


def test_one_budget_is_for_all_that_ask_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_cli.peft.patterns.TIME_LIMIT_S", 0.2)
    with one_budget() as budget:
        for pattern in (SLOW, r".*\d", "q_proj"):
            with pytest.raises(FormatError, match="takes longer than"), one_budget():
                Matcher("f").full(pattern, NAME)
        with pytest.raises(FormatError, match="takes longer than"):
            Matcher("g").charge(1)
        assert budget.spent
    assert not Matcher("f").full("q_proj", NAME)


def test_millions_of_names_are_not_compared() -> None:
    with pytest.raises(FormatError, match="takes longer than 3 s"):
        Matcher("f").charge(20_000_000)


def test_the_patterns_of_one_adapter_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_cli.peft.patterns.TIME_LIMIT_S", 60.0)  # on a busy machine the time would be over first
    with one_budget():
        for number in range(3):
            Matcher("f").full("a" * 60_000 + f"{number}+", "model")
        with pytest.raises(FormatError, match="are too large"):
            Matcher("f").full("a" * 60_000 + "3+", "model")
