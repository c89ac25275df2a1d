from pathlib import Path

import pytest

from lora_cli.documents.manifest import AdapterSet, EngineSpec, read_manifest
from lora_cli.documents.policy import Policy
from lora_cli.errors import DocumentError
from lora_cli.refs.reference import AdapterRef
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
    keep_loaded: true
  - name: tone.v2
    source: s3://acme-adapters/tone
  - {{name: local, source: ./local/adapter}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str) -> AdapterSet:
    Path("set.yaml").write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    return read_manifest(Path("set.yaml"))


def refusal(text: str) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        load(text)
    assert caught.value.exit_code == 2
    return caught.value


def minimal(adapters: str = "  - {name: a, source: org/a}", extra: str = "") -> str:
    return f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters:\n{adapters}\n{extra}"


def test_a_manifest_with_every_key_is_read(folder: Path) -> None:
    found = load(WHOLE)
    assert found.base == AdapterRef("hf", "meta-llama/Llama-3.1-8B-Instruct", revision=COMMIT)
    assert found.engine == EngineSpec(name="vllm", version="0.30", max_lora_rank=64, max_loras=8, max_cpu_loras=32)
    globs = ("hf://acme/*", "s3://acme-adapters/*", f"file://{folder}/local/*")
    assert found.policy == Policy(allow_sources=globs, max_bytes=2 << 30, require_pinned=True)
    sql, tone, local = found.adapters
    assert sql == Request(
        "sql", AdapterRef("hf", "acme/llama-31-sql-lora", revision=COMMIT), SHA256, keep_loaded=True,
        written=f"hf://acme/llama-31-sql-lora@{COMMIT}", at="set.yaml:7",
    )  # fmt: skip
    assert (tone.name, tone.keep_loaded, tone.sha256) == ("tone.v2", False, None)
    assert local.source == AdapterRef("file", f"{folder}/local/adapter")


@pytest.mark.parametrize("word", ["no", "12", "0.30", "1.0e5", "true", '"0.33"'])
def test_a_word_is_taken_as_it_is_written(word: str) -> None:
    engine = f"engine: {{name: vllm, version: {word}}}" if word.strip('"')[0].isdigit() else ""
    found = load(minimal(f"  - {{name: {word}, source: org/a}}", engine))
    assert found.adapters[0].name == word.strip('"')
    assert found.engine is None or found.engine.version == word.strip('"')


LINES = [  # line 4, the message about it, a part of the hint
    ("- {name: a, source: org/a, revision: main}", "adapters[0].revision: unknown key", "known: keep_loaded, name"),
    ("- {name: a, sourc: org/a}", "adapters[0].sourc: unknown key", "did you mean source?"),
    ("- {name: a}", "adapters[0]: the key source is missing", "hf://ORG/NAME/FOLDER@REVISION"),
    *((f"- {{name: {name}, source: org/a}}", "adapters[0].name: string should match pattern", "name of a folder")
      for name in ("../a", "a/b", "..", '""', '"a\\n"', "ż")),
    ("- {name: a, source: word}", "adapters[0].source: 'word' is neither an existing path nor", ""),
    ("[]", "adapters: tuple should have at least 1 item", "At least one adapter"),
]  # fmt: skip
OTHERS = [  # what is below the adapter, the message about line 5, a part of the hint
    ("sources: [{match: 's3://a/*'}]", "sources: unknown key", "write [[sources]] in the settings file"),
    ("policy: {suppressions: []}", "policy.suppressions: unknown key", "--write-baseline FILE"),
    (
        "policy: {require_signature: [{}]}",
        "policy.require_signature[0]: there are no signers",
        "add keys, certificates",
    ),
    ("policy: {max_bytes: lots}", "policy.max_bytes: 'lots' is not a size", "write 2GiB, 500MB"),
    ("engine: {name: vlm}", "engine.name: input should be 'vllm', 'sglang' or 'peft'", "did you mean vllm"),
    ("engine: {name: vllm, max_loras: 0}", "engine.max_loras: input should be greater than or equal to 1", "slots"),
]
WHOLES = [
    ("[a]", ":1: input should be a mapping", "known keys: apiVersion, kind"),
    ("kind: AdapterSet\nadapters: []\n", ":1: the key apiVersion is missing", "The version of this format"),
    (minimal().replace("AdapterSet", "Policy"), ":2: kind: input should be 'AdapterSet'", "The kind of this file"),
    (minimal("  - {name: a, source: b/c}\n" * 2), ":5: adapters[1].name: a is already", "a-2"),
]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        *((minimal(f"  {text}"), f":{4 - (text[0] != '-')}: {message}", hint) for text, message, hint in LINES),
        *((minimal(extra=text), f":5: {message}", hint) for text, message, hint in OTHERS),
        *WHOLES,
    ],
)
def test_what_is_wrong_names_line_key_and_the_nearest_known_key(text: str, message: str, hint: str) -> None:
    whole = refusal(text)
    error, more = whole.mistakes[0], len(whole.mistakes) - 1
    assert str(whole) == error.message + (f" (and {more} more)" if more else "")
    assert error.message.startswith(f"set.yaml{message}")
    assert hint in error.hint
    assert error.hint
