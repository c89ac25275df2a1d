from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.documents.manifest import AdapterSet, EngineSpec, load_manifest
from lora_cli.documents.policy import Policy
from lora_cli.errors import DocumentError, LoraCliError, UsageError
from lora_cli.refs.reference import AdapterRef, parse
from lora_cli.refs.request import Request

COMMIT = "9f2c" * 10
SHA256 = "ab" * 32

WHOLE = f"""\
apiVersion: lora-cli/v1
kind: AdapterSet
base: meta-llama/Llama-3.1-8B-Instruct@{COMMIT}
engine: {{name: vllm, version: 0.30, max_lora_rank: 64, max_loras: 8, max_cpu_loras: 32}}
policy: {{allow_sources: ["hf://acme/*", "s3://acme-adapters/*", ./local/*], max_bytes: 2GiB, require_pinned: true}}
adapters:
  - name: sql
    source: hf://acme/llama-31-sql-lora@{COMMIT}
    sha256: {SHA256}
    pinned: true
  - name: tone.v2
    source: s3://acme-adapters/tone
  - {{name: local, source: ./local/adapter}}
"""


def load(text: str, *, exists: tuple[str, ...] = ()) -> AdapterSet:
    return load_manifest(text, "/etc/set.yaml", is_path=lambda written: written in exists)


def refusal(text: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load(text)
    assert caught.value.exit_code == 2
    return caught.value


def minimal(adapters: str = "  - {name: a, source: org/a}", extra: str = "") -> str:
    return f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters:\n{adapters}\n{extra}"


def test_a_manifest_with_every_key_is_read() -> None:
    found = load(WHOLE)
    assert found.base == AdapterRef("hf", "meta-llama/Llama-3.1-8B-Instruct", revision=COMMIT)
    assert found.engine == EngineSpec(name="vllm", version="0.30", max_lora_rank=64, max_loras=8, max_cpu_loras=32)
    assert found.policy == Policy(
        allow_sources=("hf://acme/*", "s3://acme-adapters/*", "file:///etc/local/*"),
        max_bytes=2 << 30,
        require_pinned=True,
    )
    sql, tone, local = found.adapters
    assert sql == Request(
        "sql", AdapterRef("hf", "acme/llama-31-sql-lora", revision=COMMIT), SHA256, pinned=True,
        written=f"hf://acme/llama-31-sql-lora@{COMMIT}", at="/etc/set.yaml:7",
    )  # fmt: skip
    assert (tone.name, tone.pinned, tone.sha256) == ("tone.v2", False, None)
    assert local.source == AdapterRef("file", "/etc/local/adapter")


def test_a_smallest_manifest_is_read() -> None:
    assert load(minimal()) == AdapterSet(
        "/etc/set.yaml", None, "", None, None,
        (Request("a", AdapterRef("hf", "org/a"), written="org/a", at="/etc/set.yaml:4"),),
    )  # fmt: skip


def test_an_existing_path_beside_the_manifest_wins_over_a_hub_id() -> None:
    assert load(minimal(), exists=("org/a",)).adapters[0].source == AdapterRef("file", "/etc/org/a")


def test_relative_paths_are_relative_to_the_manifest_for_the_base_too(tmp_path: Path) -> None:
    text = minimal("  - {name: a, source: ../a}", "base: ./base/config.json\n")
    found = load_manifest(text, "set.yaml", is_path=lambda _: False, base_dir=tmp_path)
    assert found.base == AdapterRef("file", str(tmp_path / "base/config.json"))
    assert found.adapters[0].source == parse("../a", is_path=lambda _: False, base_dir=tmp_path)


def test_json_is_a_manifest_too() -> None:
    text = '{"apiVersion": "lora-cli/v1", "kind": "AdapterSet", "adapters": [{"name": "a", "source": "org/a"}]}'
    assert load(text).adapters[0].name == "a"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (minimal(extra="enginee:\n  name: vllm\n"), "/etc/set.yaml:5: enginee: unknown key", "did you mean engine?"),
        (
            minimal("  - {name: a,\n     sourc: x}"),
            "/etc/set.yaml:5: adapters[0].sourc: unknown key",
            "did you mean source?",
        ),
        (
            minimal(extra="engine: {name: vllm, maxLoras: 3}"),
            ":5: engine.maxLoras: unknown key",
            "did you mean max_loras?",
        ),
        (minimal(extra="policy: {zzz: 3}"), ":5: policy.zzz: unknown key", "known: allow_formats, "),
        (minimal(extra="policie:\n  max_bytes: 1\n"), ":5: policie: unknown key", "did you mean policy"),
        (minimal(extra="policy:\n  max_bytes:\n    [1]\n"), ":7: policy.max_bytes: this is a list", ""),
        (minimal(extra="a:\n b: 1\nkind: AdapterSet\n"), ":7: kind: duplicate key (first in line 2)", ""),
        ("kind: AdapterSet\nadapters: []\n", ":1: the key apiVersion is missing", "add apiVersion: lora-cli/v1"),
        (
            minimal().replace("/v1", "/v2"),
            ":1: apiVersion: 'lora-cli/v2' is not lora-cli/v1",
            "apiVersion: lora-cli/v1",
        ),
        (
            minimal().replace("AdapterSet", "Policy"),
            ":2: kind: 'Policy' is not AdapterSet",
            "Policy is for --policy, AdapterSet is for -f",
        ),
        (minimal().replace("AdapterSet", "Adapters"), ":2: kind: 'Adapters' is not AdapterSet", "kind: AdapterSet"),
        ("apiVersion: lora-cli/v1\nkind: AdapterSet\n", ":1: the key adapters is missing", "add adapters: …"),
        (minimal(extra="policy: {deny_sources: [*x]}"), ":5: the alias *x does not refer to", 'quote a glob: "*x"'),
        (
            minimal("  - {name: {{ name }}, source: x}"),
            ":4: a key must be a single value",
            'quote a value that contains braces: "{{ name }}"',
        ),
        ("[a]", ":1: this is a list, but must be a mapping", ""),
        (minimal("  []"), ":4: adapters: the list is empty", ""),
        (
            minimal("  - {name: a, source: org/a, revision: main}"),
            ":4: adapters[0].revision: unknown key",
            "put it in the source: hf://ORG/NAME@REVISION",
        ),
        (minimal("  a: 1"), ":4: adapters: this is a mapping, but must be a list", ""),
        (minimal("  - {name: a}"), ":4: adapters[0]: the key source is missing", ""),
        (minimal("  - a"), ":4: adapters[0]: this is a string, but must be a mapping", ""),
        (minimal("  - {name: ../a, source: org/a}"), ":4: adapters[0].name: '../a' is not a name", ""),
        (minimal("  - {name: a/b, source: org/a}"), ":4: adapters[0].name: 'a/b' is not a name", ""),
        (minimal("  - {name: .., source: org/a}"), ":4: adapters[0].name: '..' is not a name", ""),
        (minimal('  - {name: "", source: org/a}'), ":4: adapters[0].name: '' is not a name", ""),
        (minimal('  - {name: "a\\n", source: org/a}'), ":4: adapters[0].name: 'a\\n' is not a name", ""),
        (minimal("  - {name: no, source: org/a}"), ":4: adapters[0].name: no is a boolean here", 'quote it: "no"'),
        (minimal("  - {name: 12, source: org/a}"), ":4: adapters[0].name: 12 is a number here", 'quote it: "12"'),
        (minimal("  - {name: , source: org/a}"), ":4: adapters[0].name: this is empty, but must be a name", ""),
        (minimal("  - {name: a, source: [x]}"), ":4: adapters[0].source: this is a list, but must be a string", ""),
        (minimal("  - {name: a, source: word}"), ":4: adapters[0].source: 'word' is neither an existing path nor", ""),
        (
            minimal("  - {name: a, source: org/a}\n  - {name: a, source: org/b}"),
            ":5: adapters[1].name: a is already the name of",
            "",
        ),
        (minimal("  - {name: a, source: org/a, sha256: ABC}"), ":4: adapters[0].sha256: 'ABC' is not a sha256", ""),
        (
            minimal("  - {name: a, source: org/a, pinned: 1}"),
            ":4: adapters[0].pinned: this is a number, but must be",
            "",
        ),
        (
            minimal('  - {name: a, source: org/a, pinned: "true"}'),
            ":4: adapters[0].pinned: this is a string, but must be",
            "",
        ),
        (
            minimal(extra="engine: {name: vllm, max_loras: 0}"),
            ":5: engine.max_loras: 0 is not a whole number from 1 to 100000",
            "",
        ),
        (
            minimal(extra="engine: {name: vllm, max_loras: true}"),
            ":5: engine.max_loras: 'true' is not a whole number",
            "",
        ),
        (
            minimal(extra="engine: {name: vllm, max_loras: 1.50}"),
            ":5: engine.max_loras: 1.50 is not a whole number",
            "",
        ),
        (minimal().replace("lora-cli/v1", "1.0"), ":1: apiVersion: 1.0 is a number here", "apiVersion: lora-cli/v1"),
        (minimal().replace("kind: AdapterSet", "kind:"), ":2: kind: this is empty, but must be AdapterSet", ""),
        (
            minimal("  - {name: a, source: org/a, checkpoint: 5}"),
            ":4: adapters[0].checkpoint: ",
            "checkpoint-latest",
        ),
        (
            minimal(extra="policy: {max_bytes: 99999999999TiB}"),
            ":5: policy.max_bytes: '99999999999TiB' is too large",
            "",
        ),
        (
            minimal(extra="engine: {name: vllm, max_loras: 4, max_cpu_loras: 2}"),
            ":5: engine.max_cpu_loras: 2 is less than",
            "",
        ),
        (minimal(extra="engine: {version: '1'}"), ":5: engine: the key name is missing", ""),
        (minimal(extra="engine: {name: vlm}"), ":5: engine.name: 'vlm' is not the name of an engine", "vllm"),
        (minimal(extra="engine: {name: vllm, version: yes}"), ":5: engine.version: 'yes' is not a version", ""),
        (minimal(extra="policy: {max_bytes: lots}"), ":5: policy.max_bytes: 'lots' is not a size", "write 2GiB, 500MB"),
        (
            minimal(extra="policy: {allow_formats: [pickles]}"),
            ":5: policy.allow_formats[0]: 'pickles' is not",
            "did you mean pickle?",
        ),
        (minimal(extra="base: word"), ":5: base: 'word' is neither", ""),
        (
            minimal(extra="sources: [{match: 's3://a/*'}]"),
            ":5: sources: unknown key",
            "write [[sources]] in the settings file",
        ),
    ],
)
def test_what_is_wrong_names_line_key_and_the_nearest_known_key(text: str, message: str, hint: str) -> None:
    error = refusal(text)
    assert message in error.message
    assert hint in error.hint
    assert error.hint


def test_every_mistake_is_told_in_the_order_of_lines() -> None:
    adapters = "  - {name: a, sourc: org/a}\n  - {name: no, source: org/b, pinned: 1}\n  - {name: a, source: word}"
    with pytest.raises(DocumentError) as caught:
        load(minimal(adapters, "policy: {max_bytes: lots, allow_source: []}\nzzz: 1\n"))
    assert [error.message.removeprefix("/etc/set.yaml:") for error in caught.value.mistakes] == [
        "4: adapters[0].sourc: unknown key",
        "5: adapters[1].name: no is a boolean here",
        "5: adapters[1].pinned: this is a number, but must be true or false",
        "6: adapters[2].name: a is already the name of the adapter in line 4",
        "6: adapters[2].source: 'word' is neither an existing path nor a repository on the Hub",
        "7: policy.max_bytes: 'lots' is not a size",
        "7: policy.allow_source: unknown key",
        "8: zzz: unknown key",
    ]
    assert all(error.hint for error in caught.value.mistakes)
    assert caught.value.message.endswith("adapters[0].sourc: unknown key (and 7 more)")


@pytest.mark.parametrize("key", ["base", "engine", "policy"])
def test_a_key_without_a_value_is_a_mistake(key: str) -> None:
    assert f":5: {key}: this is empty, but must be " in refusal(minimal(extra=f"{key}:\n")).message


@pytest.mark.parametrize("version", ["0.30", "1.", "1.0e5", "0.0000001", "1", '"0.33"', "1.0.0rc1+cu"])
def test_a_version_is_taken_as_it_is_written(version: str) -> None:
    engine = load(minimal(extra=f"engine: {{name: vllm, version: {version}}}")).engine
    assert engine is not None
    assert engine.version == version.strip('"')


@pytest.mark.parametrize("key", ["path", "url", "sourc"])
def test_a_key_that_stands_for_another_is_one_mistake(key: str) -> None:
    with pytest.raises(DocumentError) as caught:
        load(minimal(f"  - {{name: a, {key}: ./x}}"))
    assert [error.message for error in caught.value.mistakes] == [f"/etc/set.yaml:4: adapters[0].{key}: unknown key"]


def test_values_of_the_wrong_type_are_no_repetition() -> None:
    text = minimal(
        "  - {name: '', source: a/b}\n  - {name: '', source: a/b}", "engine: {name: vllm, max_loras: true}\n"
    )
    with pytest.raises(DocumentError) as caught:
        load(text)
    assert len(caught.value.mistakes) == 3


def test_more_pinned_adapters_than_slots_are_refused() -> None:
    pinned = "\n".join(f"  - {{name: a{i}, source: org/a, pinned: true}}" for i in range(3))
    error = refusal(minimal(pinned, "engine: {name: vllm, max_loras: 2}\n"))
    assert error.message == "/etc/set.yaml:7: engine: 3 adapters are pinned, but max_loras is 2"


@given(st.text(max_size=40))
def test_any_name_is_a_safe_path_component_or_refused(name: str) -> None:
    quoted = "".join(f"\\U{ord(char):08x}" for char in name if not 0xD800 <= ord(char) < 0xE000)
    try:
        entry = load(minimal(f'  - {{name: "{quoted}", source: org/a}}')).adapters[0]
    except UsageError:
        return
    path = Path("/root") / entry.name
    assert (path.parent, path.name) == (Path("/root"), entry.name)
    assert entry.name not in {"", ".", ".."}
    assert entry.name.isascii()


@given(st.data())
def test_any_damage_is_a_usage_error_or_another_manifest(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(WHOLE)))
    stop = data.draw(st.integers(start, min(len(WHOLE), start + 30)))
    damaged = (
        WHOLE[:start]
        + data.draw(st.text(max_size=8) | st.sampled_from(["[", "*a", "&a ", "null", ": "]))
        + WHOLE[stop:]
    )
    try:
        found = load(damaged)
    except LoraCliError as error:
        assert (error.exit_code, error.message[:14]) == (2, "/etc/set.yaml:")  # noqa: PT017 - also a right outcome
        return
    assert len({adapter.name for adapter in found.adapters}) == len(found.adapters)
