"""Chat templates are searched in one pass, and what real ones have is not taken for hostile."""

import time
from pathlib import Path

import pytest

from lora_cli.judging.judge import Terms, judge_one
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.making import write_adapter

LIKE_REAL_ONES = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] }}{%- endif %}
    {{- "\n\n# Tools\n\nYou may call one or more functions\n<tools>" }}
    {%- for tool in tools %}{{- "\n" }}{{- tool | tojson }}{%- endfor %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}{%- endfor %}
{%- for message in messages %}
    {%- set asked = messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list %}
    {{- asked | join('_') }}{{ '\u2581' }}{{ "%.2f"|format(1.0) }}{{ '<think>' }}{{ strftime_now('%d %b %Y') }}
{%- endfor %}
{%- for name, value in properties.items() | sort(attribute='0') %}{{ name ~ '_' ~ value }}{% endfor %}
{%- for i in range(1, 2048) %}{% endfor %}{# a comment may say __class__ or range(9999999) #}
{{ raise_exception('Conversation roles must alternate user/assistant') }} and in text __init__ is harmless"""

HOSTILE = {
    "a name in two pieces": "{{ x['__cla' + 'ss__'] }}",
    "underscores of their own": "{{ x['__' ~ name ~ '__'] }}",
    "an escape for each underscore": r"{{ x['\x5f\x5fclass\x5f\x5f'] }}",
    "underscores by their codes": "{{ '%c%cclass%c%c'|format(95, 95, 95, 95) }}",
    "an attribute that is computed": "{{ [x] | map(attribute=a ~ b) | list }}",
    "an attribute to select by that is computed": "{{ [x] | selectattr(a) | list }}",
    "loops in loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "a tag that is never closed": "{{ x.__class__",
}


def codes(template: str, folder: Path) -> set[str]:
    write_adapter(folder / "adapter")
    (folder / "adapter" / "chat_template.jinja").write_text(template)
    verdict = judge_one(Request("", str(folder / "adapter")), Terms(values=False), Settings(folder / "cache"))
    assert verdict.error is None
    return {found.code for found in verdict.findings}


def test_what_real_templates_have_is_no_error(tmp_path: Path) -> None:
    assert "LC602" not in codes(LIKE_REAL_ONES, tmp_path)


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE)
def test_ways_around_the_plain_words_are_errors(template: str, tmp_path: Path) -> None:
    assert "LC602" in codes(template, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", ["{{", "{%", "{{ range(" + "1," * 9, "{%  ", "__", "{{ '", "|", "{{ x | ", "{#", "{{ range(1000", "{{ %c'"]
)
def test_no_template_takes_longer_than_others_of_its_length(part: str, tmp_path: Path) -> None:
    began = time.process_time()
    codes(part * (500_000 // len(part)), tmp_path)
    assert time.process_time() - began < 3
