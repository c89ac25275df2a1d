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


def refusal(text: str) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        load(text)
    assert caught.value.exit_code == 2
    return caught.value


def minimal(adapters: str = "  - {name: a, source: org/a}", extra: str = "") -> str:
    return f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters:\n{adapters}\n{extra}"


def test_a_manifest_with_every_key_is_read() -> None:
    found = load(WHOLE)
    assert found.base == AdapterRef("hf", "meta-llama/Llama-3.1-8B-Instruct", revision=COMMIT)
    assert found.engine == EngineSpec(name="vllm", version="0.30", max_lora_rank=64, max_loras=8, max_cpu_loras=32)
    globs = ("hf://acme/*", "s3://acme-adapters/*", "file:///etc/local/*")
    assert found.policy == Policy(allow_sources=globs, max_bytes=2 << 30, require_pinned=True)
    sql, tone, local = found.adapters
    assert sql == Request(
        "sql", AdapterRef("hf", "acme/llama-31-sql-lora", revision=COMMIT), SHA256, pinned=True,
        written=f"hf://acme/llama-31-sql-lora@{COMMIT}", at="/etc/set.yaml:7",
    )  # fmt: skip
    assert (tone.name, tone.pinned, tone.sha256) == ("tone.v2", False, None)
    assert local.source == AdapterRef("file", "/etc/local/adapter")


def test_a_smallest_manifest_is_read_and_json_is_one_too() -> None:
    entry = Request("a", AdapterRef("hf", "org/a"), written="org/a", at="/etc/set.yaml:4")
    assert load(minimal()) == AdapterSet("/etc/set.yaml", None, "", None, None, (entry,))
    text = '{"apiVersion": "lora-cli/v1", "kind": "AdapterSet", "adapters": [{"name": "a", "source": "org/a"}]}'
    assert load(text).adapters[0].name == "a"


def test_paths_are_relative_to_the_manifest_and_one_that_exists_wins_over_a_hub_id(tmp_path: Path) -> None:
    assert load(minimal(), exists=("org/a",)).adapters[0].source == AdapterRef("file", "/etc/org/a")
    text = minimal("  - {name: a, source: ../a}", "base: ./base/config.json\n")
    found = load_manifest(text, "set.yaml", is_path=lambda _: False, base_dir=tmp_path)
    assert found.base == AdapterRef("file", str(tmp_path / "base/config.json"))
    assert found.adapters[0].source == parse("../a", is_path=lambda _: False, base_dir=tmp_path)


ADAPTERS = [  # an adapter, the message about line 4, a part of the hint
    ("{name: a, source: org/a, revision: main}", "adapters[0].revision: unknown key", "hf://ORG/NAME@REVISION"),
    ("{name: a, source: org/a, checkpoint: 5}", "adapters[0].checkpoint: unknown key", "checkpoint-latest"),
    ("{name: a}", "adapters[0]: the key source is missing", "add source"),
    ("a", "adapters[0]: this is a string, but must be a mapping", "known keys: name, source"),
    ("{name: ../a, source: org/a}", "adapters[0].name: '../a' is not a name", "name: sql-v2"),
    ("{name: a/b, source: org/a}", "adapters[0].name: 'a/b' is not a name", ""),
    ("{name: .., source: org/a}", "adapters[0].name: '..' is not a name", ""),
    ('{name: "", source: org/a}', "adapters[0].name: '' is not a name", ""),
    ('{name: "a\\n", source: org/a}', "adapters[0].name: 'a\\n' is not a name", ""),
    ("{name: no, source: org/a}", "adapters[0].name: no is a boolean of YAML 1.1, but must be a string", '"no"'),
    ("{name: 12, source: org/a}", "adapters[0].name: 12 is a number, but must be a string", 'quote it: "12"'),
    ("{name: 0.30, source: org/a}", "adapters[0].name: 0.30 is a number, but must be a string", 'quote it: "0.30"'),
    ("{name: , source: org/a}", "adapters[0].name: this is empty, but must be a string", ""),
    ("{name: a, source: [x]}", "adapters[0].source: this is a list, but must be a string", ""),
    ("{name: a, source: word}", "adapters[0].source: 'word' is neither an existing path nor", ""),
    ("{name: a, source: org/a, sha256: ABC}", "adapters[0].sha256: 'ABC' is not a sha256", "not of one file"),
    ("{name: a, source: org/a, sha256: }", "adapters[0].sha256: this is empty, but must be a string", ""),
    ("{name: a, source: org/a, pinned: 1}", "adapters[0].pinned: 1 is a number, but must be true or false", ""),
    ('{name: a, source: org/a, pinned: "true"}', "adapters[0].pinned: this is a string, but must be true", ""),
]
OTHERS = [  # what is below the adapter, the message about line 5, a part of the hint
    ("enginee:\n  name: vllm\n", "enginee: unknown key", "did you mean engine?"),
    ("engine: {name: vllm, maxLoras: 3}", "engine.maxLoras: unknown key", "did you mean max_loras?"),
    ("policy: {zzz: 3}", "policy.zzz: unknown key", "known: allow_formats, "),
    ("policie:\n  max_bytes: 1\n", "policie: unknown key", "did you mean policy"),
    ("sources: [{match: 's3://a/*'}]", "sources: unknown key", "write [[sources]] in the settings file"),
    ("policy: {suppressions: []}", "policy.suppressions: unknown key", "--write-baseline FILE"),
    ("policy: {allow_private_redirects: true}", "policy.allow_private_redirects: unknown key", "settings file"),
    ("policy: {max_bytes: lots}", "policy.max_bytes: 'lots' is not a size", "write 2GiB, 500MB"),
    ("policy: {max_bytes: [1]}", "policy.max_bytes: [1] is not a size", "write 2GiB, 500MB"),
    ("policy: {max_bytes: 99999999999TiB}", "policy.max_bytes: '99999999999TiB' is too large", "write"),
    ("policy: {allow_sources: }", "policy.allow_sources: this is empty, but must be a list", ""),
    ("policy: {allow_formats: [pickles]}", "policy.allow_formats[0]: 'pickles' is not", "did you mean pickle?"),
    ("base: word", "base: 'word' is neither", ""),
    ("base:", "base: this is empty, but must be a string", ""),
    ("engine:", "engine: this is empty, but must be a mapping", ""),
    ("engine: {version: '1'}", "engine: the key name is missing", "add name: …"),
    ("engine: {name: vlm}", "engine.name: 'vlm' is not vllm or sglang or peft", "did you mean vllm?"),
    ("engine: {name: vllm, version: yes}", "engine.version: yes is a boolean of YAML 1.1", ""),
    ("engine: {name: vllm, version: v1}", "engine.version: 'v1' is not a version", 'version: "0.33"'),
    ("engine: {name: vllm, max_loras: 0}", "engine.max_loras: 0 is below 1", ""),
    ("engine: {name: vllm, max_loras: 100001}", "engine.max_loras: 100001 is over 100000", ""),
    ("engine: {name: vllm, max_loras: true}", "engine.max_loras: true is a boolean, but must be a whole number", ""),
    ("engine: {name: vllm, max_loras: 1.50}", "engine.max_loras: 1.50 is a number, but must be a whole number", ""),
    (
        "engine: {name: vllm, max_loras: 4, max_cpu_loras: 2}",
        "engine.max_cpu_loras: 2 is less than",
        "max_cpu_loras: 4",
    ),
]
WHOLES = [
    (minimal("  - {name: a,\n     sourc: x}"), ":5: adapters[0].sourc: unknown key", "did you mean source?"),
    (minimal("  []"), ":3: adapters: the list is empty", "add at least one"),
    (minimal("  a: 1"), ":3: adapters: this is a mapping, but must be a list", "write [ONE, TWO]"),
    ("[a]", ":1: this is a list, but must be a mapping", "known keys: apiVersion, kind"),
    ("kind: AdapterSet\nadapters: []\n", ":1: the key apiVersion is missing", "add apiVersion: lora-cli/v1"),
    ("apiVersion: lora-cli/v1\nkind: AdapterSet\n", ":1: the key adapters is missing", "add adapters: …"),
    (minimal().replace("/v1", "/v2"), ":1: apiVersion: 'lora-cli/v2' is not lora-cli/v1", "apiVersion: lora-cli/v1"),
    (minimal().replace("AdapterSet", "Policy"), ":2: kind: 'Policy' is not AdapterSet", "kind: AdapterSet"),
    (minimal().replace("lora-cli/v1", "1.0"), ":1: apiVersion: 1.0 is a number, but must be a string", ""),
    (
        minimal("  - {name: a, source: org/a}\n  - {name: a, source: org/b}"),
        ":5: adapters[1].name: a is already",
        "a-2",
    ),
]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        *((minimal(f"  - {text}"), f"set.yaml:4: {message}", hint) for text, message, hint in ADAPTERS),
        *((minimal(extra=text), f"set.yaml:5: {message}", hint) for text, message, hint in OTHERS),
        *WHOLES,
    ],
)
def test_what_is_wrong_names_line_key_and_the_nearest_known_key(text: str, message: str, hint: str) -> None:
    error = refusal(text)
    assert message in error.message
    assert hint in error.hint
    assert error.hint


def test_every_mistake_is_told_in_the_order_of_lines() -> None:
    adapters = "  - {name: a, sourc: org/a}\n  - {name: no, source: org/b, pinned: 1}\n  - {name: a, source: word}"
    error = refusal(minimal(adapters, "policy: {max_bytes: lots, allow_source: []}\nzzz: 1\n"))
    assert [one.message.removeprefix("/etc/set.yaml:") for one in error.mistakes] == [
        "4: adapters[0].sourc: unknown key",
        "5: adapters[1].name: no is a boolean of YAML 1.1, but must be a string",
        "5: adapters[1].pinned: 1 is a number, but must be true or false",
        "6: adapters[2].source: 'word' is neither an existing path nor a repository on the Hub",
        "7: policy.max_bytes: 'lots' is not a size",
        "7: policy.allow_source: unknown key",
        "8: zzz: unknown key",
    ]
    assert all(one.hint for one in error.mistakes)
    assert error.message.endswith("adapters[0].sourc: unknown key (and 6 more)")
    many = refusal(minimal("  - {name: a, sourc: b/c}\n" * 500)).mistakes
    assert (len(many), many[-1].message) == (101, "/etc/set.yaml: more errors are not shown")


@pytest.mark.parametrize("key", ["path", "url", "sourc"])
def test_a_key_that_stands_for_another_is_one_mistake(key: str) -> None:
    found = refusal(minimal(f"  - {{name: a, {key}: ./x}}")).mistakes
    assert [error.message for error in found] == [f"/etc/set.yaml:4: adapters[0].{key}: unknown key"]


@pytest.mark.parametrize("version", ["0.30", "1.", "1.0e5", "0.0000001", "1", '"0.33"', "1.0.0rc1+cu"])
def test_a_version_is_taken_as_it_is_written(version: str) -> None:
    engine = load(minimal(extra=f"engine: {{name: vllm, version: {version}}}")).engine
    assert engine is not None
    assert engine.version == version.strip('"')


def test_more_pinned_adapters_than_slots_are_refused() -> None:
    pinned = "\n".join(f"  - {{name: a{i}, source: org/a, pinned: true}}" for i in range(3))
    error = refusal(minimal(pinned, "engine: {name: vllm, max_loras: 2}\n"))
    assert error.message == "/etc/set.yaml:7: engine.max_loras: 3 adapters are pinned, but max_loras is 2"


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
    new = data.draw(st.text(max_size=8) | st.sampled_from(["[", "*a", "&a ", "null", ": "]))
    try:
        found = load(WHOLE[:start] + new + WHOLE[stop:])
    except LoraCliError as error:
        assert (error.exit_code, error.message[:14]) == (2, "/etc/set.yaml:")  # noqa: PT017 - also a right outcome
        return
    assert len({adapter.name for adapter in found.adapters}) == len(found.adapters)
