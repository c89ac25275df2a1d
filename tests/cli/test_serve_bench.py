"""``lora-cli serve-bench`` of its own server, as far as nothing is served: on adapters of a tiny model."""

from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.making import llama_modules, write_adapter, write_base_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base and a good adapter."""
    write_base_config(tmp_path / "base")
    write_adapter(tmp_path / "a0", modules=llama_modules())
    return tmp_path


def bench(folder: Path, *argv: str) -> list[str]:
    return ["serve-bench", *argv, "--device", "cpu", "--cache-dir", str(folder / "cache")]


def test_a_rank_beyond_the_limit_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = bench(folder, str(folder / "a0"), "--base", str(folder / "base"), "--max-lora-rank", "2")
    assert main(argv) == 1
    assert f"error: {folder / 'a0'} cannot be served: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("policy", "adapter", "message", "code"),
    [
        ("policy: {require_pinned: true}", "", "policy require_pinned: ", 1),
        ("policy: {max_bytes: 100}", "", "100", 1),
        ("policy: {deny_sources: [a0]}", "", "", 1),
        ("", f", sha256: {'0' * 64}", "the manifest has sha256 ", 5),
    ],
)
def test_the_policy_and_digest_of_a_manifest_are_held_to(
    policy: str, adapter: str, message: str, code: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: base\n{policy}\n"
    (folder / "set.yaml").write_text(
        f"{text}adapters: [{{name: first, source: ./a0{adapter}}}]\n".replace("[a0]", "[./a0]")
    )
    assert main(bench(folder, "-f", str(folder / "set.yaml"))) == code
    err = capsys.readouterr().err
    assert err.startswith("error: first cannot be served: ")
    assert message in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--base", "b"],
            "there is nothing to measure\nhint: add adapters, or an adapter set with -f; --url measures",
        ),
        (["./a", "--base", "b", "--popularity", "zipp:1"], "unknown family"),
        (["./a", "--base", "b", "--device", "tpu"], "--device must be auto, cpu or cuda, not tpu"),
        (
            ["./a", "--base", "b", "--max-loras", "4", "--max-cpu-loras", "2"],
            "--max-cpu-loras is 2, less than max_loras",
        ),
        (["./a", "--base", "b", "--num-prompts", "0"], "num-prompts"),
        (["./a", "--base", "b", "--eviction", "lru,opt"], "lfu\nhint: --simulate compares several, and opt"),
        (["./a", "--base", "b", "--eviction", "opt"], "lfu\nhint: --simulate compares several, and opt"),
        (
            ["./a", "--base", "b", "--eviction", "lruu"],
            "lru, lfu\nhint: did you mean lru",
        ),
        (["./a", "--base", "b", "--ranks", "8"], "--ranks is for --num-adapters"),
        (["./a", "--base", "b", "--num-adapters", "5"], "REFs and --num-adapters cannot be used together"),
        (["--num-adapters", "5"], "serve-bench needs a base model"),
    ],
)
def test_a_wrong_command_line_ends_with_2(
    argv: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main(["serve-bench", *argv]) == 2
    assert message in capsys.readouterr().err


def test_a_base_that_is_not_there_ends_with_3(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(bench(folder, str(folder / "a0"), "--base", str(folder / "nothing"))) == 3
    assert "nothing" in capsys.readouterr().err
