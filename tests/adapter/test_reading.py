"""An adapter read in place, and from a source that counts what is asked of it."""

import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.reading import FIRST_READ, read_adapter
from lora_cli.errors import Unreachable, UnsafePickle
from lora_cli.sources.files import files_at
from tests.adapter.remote import remote
from tests.making import Q_PROJ, llama_modules, write_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def read(directory: Path) -> Adapter:
    return read_adapter(files_at(directory), "sql")


def test_a_good_adapter_is_read_in_full(tmp_path: Path) -> None:
    adapter = read(write_adapter(tmp_path, modules=llama_modules(["q_proj", "v_proj"]), r=4, dtype="bfloat16"))
    assert (adapter.name, adapter.config_error, adapter.weights_error) == ("sql", None, None)
    assert adapter.config is not None
    assert adapter.config.r == 4
    assert adapter.pairs.keys() == {*llama_modules(["q_proj", "v_proj"])}
    pair = adapter.pairs[Q_PROJ]
    assert [(one.shape, one.dtype) for one in pair.factors] == [((4, 64), "BF16"), ((64, 4), "BF16")]
    assert adapter.tensors.keys() == adapter.keys.keys()
    assert adapter.weight_files == (WEIGHTS,)


def test_a_small_adapter_takes_one_range_for_each_file_and_never_its_weights(tmp_path: Path) -> None:
    write_adapter(tmp_path, modules={"model.q": (1 << 16, 64)})
    source, files = remote(tmp_path)
    assert read_adapter(files, "sql").pairs.keys() == {"model.q"}
    assert sorted(path for path, _, _ in source.ranges) == [CONFIG, WEIGHTS]
    assert source.given < FIRST_READ + 2000 < (tmp_path / WEIGHTS).stat().st_size


def test_a_large_header_takes_a_second_range_for_its_rest(tmp_path: Path) -> None:
    write_adapter(tmp_path, modules={f"model.layers.{i}.self_attn.q_proj": (1, 1) for i in range(1200)}, r=1)
    source, files = remote(tmp_path)
    assert len(read_adapter(files, "sql", threads=2).pairs) == 1200
    ranges = [(start, stop) for path, start, stop in source.ranges if path == WEIGHTS]
    assert [ranges[0], ranges[1][0], len(ranges)] == [(0, FIRST_READ), FIRST_READ, 2]


def test_an_origin_that_knows_no_sizes_is_read_too(tmp_path: Path) -> None:
    write_adapter(tmp_path, modules=llama_modules())
    adapter = read_adapter(remote(tmp_path, sized=False)[1], "sql")
    assert (adapter.config_error, adapter.weights_error) == (None, None)
    assert len(adapter.pairs) == 14
    (tmp_path / WEIGHTS).rename(tmp_path / "adapter_model.bin")
    adapter = read_adapter(remote(tmp_path, sized=False)[1], "sql")
    assert "does not report its size" in str(adapter.weights_error)


TOO_LONG = "8388609 bytes are over the limit for a config"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0"
SHORT = (1000).to_bytes(8, "little") + b"{}"


@pytest.mark.parametrize(
    ("name", "data", "sized", "reason"),
    [
        *((CONFIG, b"", sized, "not JSON: Expecting value") for sized in (True, False)),
        *((CONFIG, b" " * (9 << 20), sized, TOO_LONG) for sized in (True, False)),
        (WEIGHTS, LFS, True, "is a git-lfs pointer, not the file itself"),
        (WEIGHTS, SHORT, True, "truncated"),
        (WEIGHTS, SHORT, False, "truncated: the header has 1000 bytes, but only 2 are present"),
    ],
)
def test_what_cannot_be_read_is_the_adapters_error_not_ours(
    tmp_path: Path, name: str, data: bytes, sized: bool, reason: str
) -> None:
    (write_adapter(tmp_path) / name).write_bytes(data)
    adapter = read_adapter(remote(tmp_path, sized=sized)[1], "sql")
    error, other = adapter.config_error, adapter.weights_error
    if name == CONFIG:
        assert adapter.config is None
        assert adapter.pairs.keys() == {Q_PROJ}
    else:
        error, other = other, error
        assert adapter.config is not None
        assert (adapter.tensors, adapter.weight_files) == ({}, (WEIGHTS,))
    assert other is None
    assert error is not None
    assert error.where.startswith(name)
    assert reason in str(error)


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
def test_pickled_weights_are_never_unpickled(tmp_path: Path, name: str) -> None:
    write_adapter(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / name).write_bytes(f"cos\nsystem\n(S'touch {tmp_path}/pwned'\ntR.".encode())
    error = read(tmp_path).weights_error
    assert isinstance(error, UnsafePickle)
    assert (error.where, error.global_name) == (name, "os.system")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_what_can_never_be_read_as_bytes_is_not_opened(tmp_path: Path, name: str) -> None:
    write_adapter(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    adapter = read(tmp_path)
    error = adapter.config_error if name == CONFIG else adapter.weights_error
    assert error is not None
    assert error.where == name
    assert "not a regular file" in str(error)


def test_what_the_source_raises_is_not_the_adapters_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, files = remote(write_adapter(tmp_path))
    monkeypatch.setattr(source, "read", Mock(side_effect=Unreachable("the line is dead")))
    with pytest.raises(Unreachable):
        read_adapter(files, "sql")
