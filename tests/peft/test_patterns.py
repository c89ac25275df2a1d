"""Users' regular expressions: read as ``re`` reads them, and stopped in time."""

import re
import time
import warnings
from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lora_cli.errors import FormatError
from lora_cli.peft.patterns import Matcher, as_regex_reads
from tests.slow import slowly

NAME = "model.layers.10.self_attn.q_proj"
SLOW = r"(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)\8\7\6\5\4\3\2\1model"


def test_the_four_ways_in_which_peft_matches() -> None:
    matcher = Matcher("f")
    assert matcher.full(r".*\.q_proj", NAME)
    assert not matcher.full("q_proj", NAME)
    assert matcher.dotted_end("q_proj", NAME)
    assert not matcher.dotted_end("proj", NAME)
    assert matcher.component("layers", NAME)
    assert not matcher.component("layer", NAME)
    assert matcher.layer_index("layers", NAME) == 10
    assert matcher.layer_index("h", NAME) is None


@pytest.mark.parametrize(
    "pattern", ["x{e<=1}", "(?:abc){i}", "a{,2}", "a{}", "a{,}", "a{x}", r"a\{1", "{", "[a{1}]", "[[a]"]
)
@pytest.mark.parametrize("name", ["x", "y", "abc", "abxc", "a", "aa", "aaa", "a{}", "x{e<=1}", "a{x}", "a{1", "{", "["])
def test_what_only_the_other_engine_would_read_is_read_as_text(pattern: str, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = re.fullmatch(pattern, name) is not None
    assert Matcher("f").full(pattern, name) == wanted


pieces = st.sampled_from(
    (
        *(
            "a",
            "b",
            "_",
            ".",
            "0",
            r"\.",
            r"\d",
            r"\w",
            r"\b",
            "^",
            "$",
            "*",
            "+",
            "?",
            "|",
            "(",
            ")",
            "(?:",
            "(?=",
            "(?!",
        ),
        *(
            "[",
            "]",
            "[^",
            "[ab]",
            "-",
            "{",
            "}",
            "{1}",
            "{1,2}",
            "{,1}",
            "{e}",
            "(?i)",
            "(?<=a)",
            "(?P<n>",
            r"\1",
            "*?",
            "a++",
        ),
        *(r"\[", r"\]", r"\{", "&&", "--", "[:alpha:]", "\\"),
    )
)


@settings(deadline=None, max_examples=600)
@given(st.lists(pieces, min_size=1, max_size=7).map("".join), st.text("ab_.0-[{}e:&", max_size=6))
def test_any_pattern_means_what_re_says(pattern: str, name: str) -> None:
    matcher = Matcher("f")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compiled = re.compile(pattern)
        except re.error:
            with pytest.raises(FormatError, match="is not a regular expression"):
                matcher.full(pattern, name)
            return
        # Where sets of a pattern hold brackets, ours differ on nothing that re accepts.
        assert matcher.full(pattern, name) == (compiled.fullmatch(name) is not None)
        try:
            framed = re.match(rf"(.*\.)?({pattern})$", name)
        except re.error:
            assume(False)
            raise
        assert matcher.dotted_end(pattern, name) == (framed is not None)


@pytest.mark.slow
def test_a_pattern_that_would_never_end_is_stopped_and_says_so() -> None:
    matcher = Matcher("adapter_config.json: rank_pattern", limit_s=0.1)
    begun = time.perf_counter()
    with pytest.raises(FormatError) as caught:
        matcher.full(SLOW, NAME)
    assert time.perf_counter() - begun < 5
    assert "takes longer than 0.1 s" in str(caught.value)
    assert caught.value.where == "adapter_config.json: rank_pattern"
    assert "PEFT itself would hang" in caught.value.hint


@pytest.mark.slow
def test_the_limit_is_for_all_matching_together() -> None:
    matcher = Matcher("f", limit_s=0.1)
    with pytest.raises(FormatError):
        matcher.full(SLOW, NAME)
    begun = time.perf_counter()
    for _ in range(100):
        with pytest.raises(FormatError):
            matcher.full(r".*\d", NAME)
    assert time.perf_counter() - begun < 1


def test_names_are_matched_as_the_patterns_that_they_are() -> None:
    matcher = Matcher("f")
    assert matcher.dotted_end("self_attn.q_proj", NAME)
    assert matcher.dotted_end("selfXattn.q_proj", NAME) is False
    assert matcher.dotted_end("layers.10.self.attn.q_proj", NAME), "a dot is any character to PEFT"
    assert matcher.component("q_proj", NAME)
    assert matcher.component("proj", NAME) is False


@pytest.mark.slow
@pytest.mark.parametrize("way", [Matcher.dotted_end, Matcher.component, Matcher.full])
def test_more_names_than_can_be_compared_in_time_are_stopped(way: Callable[[Matcher, str, str], bool]) -> None:
    matcher = Matcher("f", limit_s=0.01)
    begun = time.perf_counter()
    with pytest.raises(FormatError, match="takes longer than"):
        sum(way(matcher, f"name_{number}", NAME) for number in range(10**6))
    assert time.perf_counter() - begun < 5


@pytest.mark.parametrize("step", slowly((1, 8), 8))
def test_a_pattern_for_each_of_two_thousand_modules_is_no_hardship(step: int) -> None:
    names = [f"model.layers.{layer}.self_attn.{letter}_proj" for layer in range(500) for letter in "qkvo"]
    matcher = Matcher("f")
    assert all(any(matcher.dotted_end(pattern, name) for pattern in names) for name in names[::step])


@pytest.mark.parametrize("pattern", ["(a{1000}){1000}", "((a{99}){99}){99}", "a" * 200_000 + "+", "(b{,99999}){3}"])
def test_a_pattern_that_would_take_memory_is_refused(pattern: str) -> None:
    with pytest.raises(FormatError, match="too large"):
        Matcher("f").full(pattern, NAME)


@pytest.mark.parametrize(
    "pattern", ["*", "(", "a{2,1}", r"\8", "(?P<x>", "(?P<n>a)(?P<n>b)", "(" * 5_000 + ")" * 5_000]
)
def test_what_is_no_regular_expression_is_an_error_that_shows_it(pattern: str) -> None:
    with pytest.raises(FormatError, match=r"f: '.*' is not a regular expression"):
        Matcher("f").full(pattern, NAME)


def test_only_what_differs_is_rewritten() -> None:
    unsloth = r"(?:.*?(?:language|text).*?(?:mlp).*?)|(?:\bmodel\.layers\.[\d]{1,}\.[^\]a-z](?:q_proj))"
    assert as_regex_reads(unsloth) == unsloth
    assert as_regex_reads("[]a[]{x}[^]b]") == r"[]a\[]\{x}[^]b]"
