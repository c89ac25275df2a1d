"""Files that are read: text, YAML within its bounds, and the paths in them."""

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.documents.document import DEPTH, parse_yaml
from lora_cli.documents.manifest import read_manifest
from lora_cli.documents.policy import Policy, read_policy
from lora_cli.errors import MachineError, NotFound, UsageError
from lora_cli.refs.reference import AdapterRef

MANIFEST = """\
apiVersion: lora-cli/v1
kind: AdapterSet
base: ./base/config.json
policy: {allow_sources: [./adapters]}
adapters:
  - {name: local, source: adapters/local}
  - {name: hub, source: acme/elsewhere}
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    (tmp_path / "sets" / "adapters" / "local").mkdir(parents=True)
    file = tmp_path / "sets" / "set.yaml"
    file.write_text(MANIFEST)
    return file


def test_paths_are_relative_to_the_file_and_not_to_the_working_directory(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(manifest.parents[1])
    for spelled in (manifest, Path("sets/set.yaml")):
        found = read_manifest(spelled)
        assert found.file == str(spelled)
        assert found.base == AdapterRef("file", str(manifest.parent / "base/config.json"))
        assert found.policy == Policy(allow_sources=(f"file://{manifest.parent}/adapters",))
        local, hub = found.adapters
        assert local.source == AdapterRef("file", str(manifest.parent / "adapters/local"))
        assert hub.source == AdapterRef("hf", "acme/elsewhere")
    manifest.write_text(MANIFEST.replace("acme/elsewhere", "adapters/gone"))  # where its parent is, it is a path
    assert read_manifest(manifest).adapters[1].source == AdapterRef("file", str(manifest.parent / "adapters/gone"))
    policy = manifest.with_name("policy.yaml")
    signed = "require_signature: [{sources: [acme/*], keys: [acme.pub]}]"
    policy.write_text(f"apiVersion: lora-cli/v1\nkind: Policy\nallow_sources: [./adapters/*, acme/*]\n{signed}\n")
    read = read_policy(policy)
    assert read.allow_sources == (f"file://{manifest.parent}/adapters/*", "hf://acme/*")
    assert [(one.sources, one.keys) for one in read.require_signature] == [
        (("hf://acme/*",), (str(policy.with_name("acme.pub")),))
    ]


def test_a_manifest_comes_from_standard_input_and_behind_a_byte_order_mark(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(manifest.parent)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(MANIFEST.encode())))
    found = read_manifest(Path("-")).adapters[0]
    assert (found.source, found.at) == (AdapterRef("file", str(manifest.parent / "adapters/local")), "-:6")
    manifest.write_bytes(b"\xef\xbb\xbf" + MANIFEST.encode())
    assert len(read_manifest(manifest).adapters) == 2


def test_a_missing_file_a_folder_and_other_bytes_are_each_said(manifest: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no manifest .*none\.yaml"):
        read_manifest(manifest.with_name("none.yaml"))
    with pytest.raises(UsageError, match="the manifest is a folder"):
        read_manifest(manifest.parent)
    manifest.write_bytes(b"a: \xff")
    with pytest.raises(UsageError, match="not UTF-8 at byte 3"):
        read_manifest(manifest)
    with pytest.raises(MachineError, match="the manifest cannot be read"):
        read_manifest(Path("x" * 5000))
    with pytest.raises(UsageError, match="the policy is over 16777216 bytes long"):
        read_policy(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1: the document is empty"),
        ("a: 1\nb: 2\na: 3\n", "3: a: duplicate key (first in line 1)"),
        ("a: !!python/object/apply:os.system ['true']\n", "1: an alias (*), a tag (!)"),
        ("a: 1\n---\nb: 2\n", "2: this is not YAML: "),
        ("x: &x {a: 1}\ny:\n  <<: *x\n", "3: an alias (*), a tag (!)"),
        ("? [a]\n: 1\n", "1: this is not YAML: found unhashable key"),
        ("a: \x00\n", "this is not YAML: "),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), f"1: an alias (*), a tag (!) or more than {DEPTH} levels"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_yaml(text, "f.yaml")
    assert message in caught.value.message
    assert caught.value.message.startswith("f.yaml:")
    assert caught.value.hint


@given(st.text(max_size=200) | st.text(alphabet="ab:-[]{}&*!|>'\"#%@`?, \n\t", max_size=60))
@settings(max_examples=300)
def test_any_text_is_a_document_or_a_usage_error_with_its_line(text: str) -> None:
    try:
        said = parse_yaml(text, "some.yaml").at()
    except UsageError as error:
        said = error.message
    assert said.startswith("some.yaml:")
