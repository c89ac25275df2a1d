from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.documents.manifest import dump_lock, lock_path, read_lock
from lora_cli.errors import UsageError
from lora_cli.refs.request import THE_BASE, Lock, LockedAdapter
from lora_cli.refs.snapshot import Blob

COMMIT = "9f2c" * 10
SQL = LockedAdapter(
    "sql",
    "hf://acme/sql@main",
    COMMIT,
    {"adapter_model.safetensors": Blob("ab" * 32, 5000), "adapter_config.json": Blob("cd" * 32, 500)},
    endpoint="https://huggingface.co",
)
TONE = LockedAdapter("tone", "./tone", "", {"adapter_config.json": Blob("ef" * 32, 1)})

DUMPED = f"""\
apiVersion: lora-cli/v1
kind: AdapterSetLock
adapters:
- name: sql
  source: hf://acme/sql@main
  endpoint: https://huggingface.co
  revision: {COMMIT}
  digest: {SQL.digest}
  files:
  - path: adapter_config.json
    size: 500
    sha256: {"cd" * 32}
  - path: adapter_model.safetensors
    size: 5000
    sha256: {"ab" * 32}
"""


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("locks"))
        yield


def load(text: str) -> Lock:
    Path("l").write_text(text)
    return read_lock(Path("l"))


def lock_of(*entries: LockedAdapter) -> Lock:
    return {one.name: one for one in entries}


def test_a_lock_is_written_in_one_way_only() -> None:
    assert lock_path(Path("sets/a.b.yaml")) == Path("sets/a.b.lock.yaml")
    assert dump_lock(lock_of(SQL)) == DUMPED
    assert dump_lock(lock_of(TONE, SQL)) == dump_lock(lock_of(SQL, TONE))
    assert load(DUMPED) == lock_of(SQL)
    assert load(dump_lock({})) == {}


def base(text: str) -> LockedAdapter:
    data = text.encode()
    return LockedAdapter(
        THE_BASE, "org/base", COMMIT, {"config.json": Blob(sha256(data).hexdigest(), len(data))}, config=text
    )


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('{\n  "a": 1,\n\n  "b": " x "\n}\n', '  config: |\n    {\n      "a": 1,\n\n      "b": " x "\n    }\nadapters'),
        ('{"a": "# no: comment"}', '  config: |-\n    {"a": "# no: comment"}\nadapters'),
        ('{"a": "é"}\n', r'  config: "{\"a\": \"\xE9\"}\n"'),
    ],
)
def test_the_config_of_a_base_is_a_readable_block_and_the_same_bytes_again(text: str, written: str) -> None:
    dumped = dump_lock(lock_of(base(text)))
    assert written in dumped
    assert load(dumped) == lock_of(base(text))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (f"  digest: {SQL.digest}\n", "", "15: adapters[0]: the key digest is missing"),
        ("size: 500\n", "size: 501\n", "19: adapters[0].digest: the digest of the files is "),
        ("size: 500\n", "size: -1\n", "22: adapters[0].files[0].size: input should be greater than or equal to 0"),
        ("adapter_config", "../adapter_config", "21: adapters[0].files[0].path: this is not a relative POSIX path"),
        ("adapter_config.json", "/etc/passwd", "21: adapters[0].files[0].path: this is not a relative POSIX path"),
        ("name: sql", "name: ../sql", "15: adapters[0].name: string should match"),
        ("kind: AdapterSetLock", "kind: AdapterSet", "2: kind: input should be 'AdapterSetLock'"),
        ('{"a": 1}', '{"a": 2}', "12: base.config: these are not the bytes of config.json in files"),
        ("  endpoint: ''\n", "", "3: base: the key endpoint is missing"),
        ("kind:", "<<<<<<< HEAD\nkind:", "3: this is not YAML"),
    ],
)
def test_a_lock_that_was_tampered_with_cut_or_badly_merged_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(dump_lock(lock_of(SQL, base('{"a": 1}'))).replace(old, new))
    assert caught.value.message.startswith(f"l:{message}")
    assert "or recreate it with lora-cli fetch -f FILE --upgrade" in caught.value.hint


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
PATHS = WORDS.filter(lambda word: not set(word) & set("/\\") and word not in {".", ".."})
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
ADAPTERS = st.builds(
    LockedAdapter,
    st.from_regex(r"[a-z][a-z0-9._-]{0,9}", fullmatch=True),
    WORDS,
    WORDS | st.just(""),
    st.dictionaries(PATHS, st.builds(Blob, DIGESTS, st.integers(0, 10**15)), min_size=1, max_size=3),
    endpoint=WORDS,
)


@given(st.lists(ADAPTERS, max_size=4, unique_by=lambda adapter: adapter.name), st.text(st.sampled_from("{} \n#:-|\té")))
def test_what_is_written_is_read_back_and_written_alike(adapters: list[LockedAdapter], config: str) -> None:
    lock = lock_of(*adapters, base(config))
    text = dump_lock(lock)
    assert load(text) == lock
    assert dump_lock(load(text)) == text
    assert text.isascii()
