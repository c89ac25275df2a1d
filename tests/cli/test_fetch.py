"""``lora-cli fetch``: directories on standard output, talk on standard error, one code at the end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.making import write_adapter
from tests.store.keeping import tree

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SET = """apiVersion: lora-cli/v1
kind: AdapterSet
adapters:
  - {name: a, source: ./sql}
  - {name: b, source: ./chat}
"""


pytestmark = pytest.mark.usefixtures("a_folder_and_a_cache_of_its_own")


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "sql", seed=1)


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "chat", seed=2)


def test_standard_output_is_one_absolute_snapshot_directory_an_adapter(
    sql: Path, chat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", str(sql), "./chat"]) == 0
    out, err = capsys.readouterr()
    first, second = map(Path, out.splitlines())
    assert first.parent == second.parent == tmp_path / "cache" / "snapshots" / "sha256"
    assert (first / WEIGHTS).read_bytes() == (sql / WEIGHTS).read_bytes()
    assert (second / WEIGHTS).read_bytes() == (chat / WEIGHTS).read_bytes()
    assert [line.split(":")[0] for line in err.splitlines()] == [str(tmp_path / "sql"), "./chat"]


def test_quiet_says_nothing_but_errors(sql: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "--quiet", "./sql", "./none"]) == 3
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert err.startswith("error: ./none: there is no folder")
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"]


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["word"],
        ["./sql", "-f", "set.yaml"],
        ["./sql", "--timeout", "30s"],
        ["./sql", "--to", ""],
        ["./sql", "--revision", "v1"],
        ["./sql", "sub/../sql", "--to", "out"],
    ],
)
def test_a_wrong_command_line_is_exit_2(argv: list[str], sql: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("set.yaml").write_text(SET)
    assert main(["fetch", *argv]) == 2
    assert capsys.readouterr().out == ""
    assert not Path("cache").exists()


def test_one_adapter_is_handed_out_to_the_folder_itself(sql: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "./sql", "--to", "out"]) == 0
    assert capsys.readouterr().out == f"{Path.cwd() / 'out'}\n"
    assert tree(Path("out")) == {CONFIG, WEIGHTS}
    killed = "import os, pathlib\nfrom lora_cli.store.materialize import hidden_folder\n"
    killed += "with hidden_folder(pathlib.Path('out')) as folder: os._exit((folder / 'half').write_bytes(b'x'))\n"
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == 1
    assert len(list(Path().glob(".out.*"))) == 2
    assert main(["fetch", "./sql", "--to", "out"]) == 0
    assert sorted(path.name for path in Path().iterdir()) == ["cache", "out", "sql"]


def test_several_are_handed_out_to_folders_by_name(sql: Path, chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "./sql", "./chat", "--to", "out"]) == 0
    assert capsys.readouterr().out == f"{Path.cwd() / 'out' / 'sql'}\n{Path.cwd() / 'out' / 'chat'}\n"
    assert tree(Path("out")) == {f"{name}/{file}" for name in ("sql", "chat") for file in (CONFIG, WEIGHTS)}


def test_a_folder_with_something_else_is_never_overwritten(
    sql: Path, chat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", "./sql", "--to", "chat"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "chat exists, with other content" in err
    assert tree(Path("chat")) == {CONFIG, WEIGHTS}


def test_offline_needs_no_network_for_folders(sql: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "./sql", "--offline"]) == 0
    assert main(["fetch", "org/name", "--offline"]) == 3
    assert "offline mode is on" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["validate", "org/name", "--base", "none"],
        ["inspect", "org/name"],
        ["warm", "org/name", "--base", "o/b"],
    ],
    ids=lambda words: words[0],
)
def test_offline_is_an_option_of_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for line in ([*words, "--offline"], ["--offline", *words]):
        assert main(line) == 3
        out, err = capsys.readouterr()
        assert "is not cached" in " ".join((out + err).split())


FETCHED_MODULES = """
import sys
from lora_cli.cli.main import main
assert main(["fetch", "./sql"]) == 0
print(" ".join(sorted({name.split(".")[0] for name in sys.modules})), file=sys.stderr)
"""


def test_a_folder_is_fetched_without_anything_heavy(sql: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FETCHED_MODULES], capture_output=True, text=True, check=True)
    imported = set(done.stderr.splitlines()[-1].split())
    assert not imported & {
        "torch",
        "numpy",
        "httpx2",
        "http.client",
        "yaml",
        "rich",
        "huggingface_hub",
        "safetensors",
        "transformers",
    }


def test_a_word_that_is_no_reference_does_not_stop_the_others(sql: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "nonexist", "./sql"]) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert "'nonexist' is neither" in err
    assert main(["fetch", "nonexist", "./sql", "--format", "json"]) == 2
    bad, good = json.loads(capsys.readouterr().out)["adapters"]
    assert (bad["ref"], bad["exit_code"], good["exit_code"]) == (None, 2, 0)
    assert main(["fetch", "nonexist", "./sql", "--to", "out"]) == 2
    assert tree(Path("out")) == {f"sql/{CONFIG}", f"sql/{WEIGHTS}"}


def test_a_folder_that_cannot_be_written_is_the_fault_of_to(sql: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "./sql", "--to", "/proc/out"]) == 6
    err = capsys.readouterr().err
    assert "--to" in err
    assert "--cache-dir" not in err
