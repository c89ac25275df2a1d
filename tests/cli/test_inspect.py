"""``lora-cli inspect``: what an adapter is, wherever it is: within kilobytes, whatever is inside."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from tests.cli.test_startup import modules_after
from tests.conftest import QUICKSTART
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base_config
from tests.object_servers import AzureServer, GcsServer, S3Server
from tests.traffic import Traffic, counted
from tests.web_server import Site, WebServer

Captured = pytest.CaptureFixture[str]
Q, K = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj"
CARD = """---
base_model: acme/base
license: apache-2.0
---
"""
WEIGHTS = 21_000_000


def lines(capsys: Captured) -> dict[str, str]:
    """Each fact by its label, unwrapped."""
    found: dict[str, str] = {}
    label = ""
    for line in capsys.readouterr().out.splitlines()[1:]:
        label = line[:14].strip() or label
        found[label] = f"{found.get(label, '')} {line[14:].strip()}".strip()
    return found


def inspected(capsys: Captured, *argv: str | Path, code: int = 0) -> Any:
    """The first adapter of the document."""
    capsys.readouterr()
    assert main(["inspect", *map(str, argv), "--format", "json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "lora_cli/inspect/1"
    return document["adapters"][0]


@pytest.fixture
def carded(tmp_path: Path) -> Path:
    """An adapter of two ranks with a model card, as TRL leaves it."""
    config = {"rank_pattern": {"k_proj": 2}, "peft_version": "0.21.2"}
    shapes = {"modules": {Q: (64, 64), K: (64, 32)}, "ranks": {K: 2}, "dtype": "bfloat16"}
    folder = write_adapter(tmp_path / "sql", config=config, **shapes)  # type: ignore[arg-type]
    (folder / "README.md").write_text(CARD)
    return folder


def test_it_says_what_the_adapter_and_its_card_are(carded: Path, capsys: Captured) -> None:
    assert main(["inspect", str(carded)]) == 0
    told = {
        "format": "PEFT LoRA, safetensors",
        "base": "tiny/base at 5f0b02c75b57c5855da9ae460ce51323ea669d8a",
        "rank": "4 (1 module), 2 (1 module)",
        "scaling": "2 (1 module), 4 (1 module)",
        "targets": "k_proj, q_proj (2 modules)",
        "layers": "0-1 (2)",
        "dtype": "BF16",
        "parameters": "704",
        "features": "rank_pattern",
        "PEFT": "0.21.2",
        "license": "apache-2.0",
        "card base": "acme/base",
    }
    said = lines(capsys)
    assert {name: said.get(name) for name in told} == told


def test_a_manifest_is_inspected_by_name_with_its_base(tmp_path: Path, capsys: Captured) -> None:
    write_base_config(tmp_path / "base")
    write_adapter(tmp_path / "sql", modules=llama_modules())
    file = tmp_path / "set.yaml"
    entries = "[{name: sql, source: ./sql}, {name: gone, source: ./gone}]"
    file.write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters: {entries}\n")
    assert main(["inspect", "-f", str(file)]) == 3
    first, second, summary = capsys.readouterr().out.split("\n\n")
    assert first.startswith("sql\n  source ")
    assert "applies     14/14 modules" in first
    assert second.startswith("gone: not read\n  there is no folder")
    assert summary == "2 adapters: 1 read, 1 not read\n"


BOMB = "---\na: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)
CARDS: dict[str, tuple[bytes | None, str]] = {
    "bomb": (f"{BOMB}---\n".encode(), "an alias (*)"),
    "endless": (b"---\nlicense: mit\n" + b"# more\n" * 20_000, "does not end in the 32768 bytes read"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "README.md is a git-lfs pointer"),
    "escape": (b"---\nlicense: \x1b[2Jmit\n---\n", "this is not YAML"),
    "link": (None, "README.md is a dangling link"),
}


@pytest.mark.parametrize("case", CARDS)
def test_a_hostile_card_costs_nothing_but_itself(case: str, carded: Path, capsys: Captured) -> None:
    content, why = CARDS[case]
    (carded / "README.md").unlink()
    (carded / "README.md").symlink_to("nowhere") if content is None else (carded / "README.md").write_bytes(content)
    assert main(["inspect", str(carded)]) == 0
    said = lines(capsys)
    assert (said["license"], why in said["card"], said["layers"]) == ("unknown", True, "0-1 (2)")


def test_of_a_card_of_100_mb_the_beginning_is_read(carded: Path, capsys: Captured) -> None:
    with (carded / "README.md").open("ab") as stream:
        stream.truncate(100 << 20)  # which is a hole, and would be read as so many zeros
    assert main(["inspect", str(carded)]) == 0
    assert lines(capsys)["license"] == "apache-2.0"


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "sql", modules={**llama_modules(), "lm_head": (64, 256)}, dtype="bfloat16")


def test_a_diff_says_what_the_other_is(sql: Path, tmp_path: Path, capsys: Captured) -> None:
    other = write_adapter(tmp_path / "other", modules=llama_modules(), lora_alpha=16)
    diff = inspected(capsys, sql, "--diff", other)["diff"]
    assert diff["with"]["source"] == f"file://{other}"
    assert [change["name"] for change in diff["fields"]] == ["target_modules", "lora_alpha"]
    assert diff["fields"][1] == {"name": "lora_alpha", "a": 8, "b": 16}
    tensor = f"base_model.model.{Q}.lora_A.weight"
    assert diff["tensors"][0] == {"name": tensor, "a": "BF16 [4, 64]", "b": "F32 [4, 64]"}
    assert [change["b"] for change in diff["tensors"] if "lm_head" in change["name"]] == [None, None]
    assert main(["inspect", str(sql), "--diff", str(other)]) == 0
    out = capsys.readouterr().out
    assert " 8 -> 16\n" in out
    assert re.search(r"layers\.\*\S+  BF16 \[4, 64\]   F32 \[4, 64\] +2\n", out)
    (other / "adapter_model.safetensors").write_bytes(b"PK")
    diff = inspected(capsys, other, "--diff", sql, code=1)["diff"]
    assert ([change["name"] for change in diff["fields"]], diff["tensors"]) == (["target_modules", "lora_alpha"], None)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("{sql} {sql}/../b --diff {sql}", 2, "--diff compares one adapter with another"),
        ("{sql} --diff {sql}/../gone", 3, "there is no folder"),
        ("{sql} --diff=", 2, ""),
        ("{sql} --diff oci://registry", 2, ""),
        ("{sql} --diff {sql}/..", 1, "it has 2 adapters, in broken, sql"),
        ("{sql} --diff {sql}/../broken", 1, "adapter_model.safetensors"),
    ],
)
def test_what_cannot_be_compared_is_an_error_that_says_so(
    line: str, code: int, said: str, sql: Path, tmp_path: Path, capsys: Captured
) -> None:
    (write_adapter(tmp_path / "broken") / "adapter_model.safetensors").write_bytes(b"PK")
    assert main(["inspect", *line.format(sql=sql).split()]) == code
    err = capsys.readouterr().err
    assert (said in err, "Traceback" in err) == (True, False)


def test_the_docs_show_what_a_diff_prints_and_no_number_is_reckoned_with(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = QUICKSTART.parents[1]
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "80")
    command = "$ lora-cli inspect manifests/quickstart/pirate --diff manifests/quickstart/zubrowka\n"
    shown = (root / "docs" / "inspect.md").read_text(encoding="utf-8").split(command)[1].partition("```")[0]
    argv = command.split()[2:]
    assert main(argv) == 0
    out = capsys.readouterr().out
    for part in filter(None, shown.split("…\n")):
        assert part in out
        out = out.partition(part)[2]
    assert "numpy" not in modules_after(f"from lora_cli.cli.main import main\nmain({argv!r})")


def test_to_a_pipe_the_command_alone_is_written_and_what_it_costs_to_standard_error(
    sql: Path, capsys: Captured
) -> None:
    assert main(["inspect", str(sql), "--engine-args", "vllm"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith('  vllm serve "$MODEL" \\\n    --enable-lora \\\n')
    assert err.startswith("vLLM 0.33 for 1 adapter\n\n  slot ")
    assert main(["inspect", str(sql), "--engine-args", "vllm", "-q"]) == 0
    assert capsys.readouterr() == (out, "")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an adapter of 21 MB, with a card of a megabyte: the largest that a hostile one may bring here."""
    r = WEIGHTS // (4 * 14 * (64 + 64)) // 8 * 8
    modules = dict.fromkeys(llama_modules(), (64, 64))
    folder = write_adapter(tmp_path_factory.mktemp("large") / "large", modules=modules, r=r)
    (folder / "README.md").write_text(CARD + "more text\n" * 100_000)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x" * 5000}))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(files["adapter_model.safetensors"]) > WEIGHTS * 0.9
    return files


@pytest.fixture(params=["on_the_hub", "on_s3", "on_gcs", "on_azure", "on_the_web"])
def remote(request: pytest.FixtureRequest) -> tuple[str, Traffic]:
    """The adapter on each kind of server: how to name it, and what counts the bytes that the server sends."""
    found: tuple[str, Traffic] = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def on_the_hub(large: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Traffic]]:
    with Hub() as hub, counted(hub.endpoint, hub.cdn) as passing:
        hub.add("acme/large", large)
        hub.cdn = f"http://127.0.0.1:{passing.ports[1]}"
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{passing.ports[0]}")
        yield "hf://acme/large", passing


@pytest.fixture
def on_s3(
    large: dict[str, bytes], seaweed_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Traffic]]:
    place = seaweed_server.place()
    seaweed_server.put(place, {f"large/{name}": content for name, content in large.items()})
    for name, value in seaweed_server.environ.items():
        monkeypatch.setenv(name, value)
    with counted(seaweed_server.endpoint) as passing:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{passing.ports[0]}")
        yield f"s3://{place}/large", passing


@pytest.fixture
def on_gcs(
    large: dict[str, bytes], gcs_server: GcsServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Traffic]]:
    bucket = gcs_server.bucket()
    gcs_server.put(bucket, {f"large/{name}": content for name, content in large.items()})
    with counted(gcs_server.endpoint, as_host=True) as passing:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{passing.ports[0]}")
        monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
        yield f"gs://{bucket}/large", passing


@pytest.fixture
def on_azure(
    large: dict[str, bytes], azure_server: AzureServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Traffic]]:
    container = azure_server.container()
    azure_server.put(container, {f"large/{name}": content for name, content in large.items()})
    for name, value in azure_server.environ.items():
        monkeypatch.setenv(name, value)
    with counted(azure_server.endpoint.rpartition("/")[0]) as passing:
        place = f"http://127.0.0.1:{passing.ports[0]}/{azure_server.account}"
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", place)
        yield f"az://{container}/large", passing


@pytest.fixture
def on_the_web(large: dict[str, bytes]) -> Iterator[tuple[str, Traffic]]:
    site = Site({f"large/{name}": content for name, content in large.items()})
    with WebServer(site) as web, counted(web.place) as passing:
        yield f"http://127.0.0.1:{passing.ports[0]}/large", passing


@pytest.mark.slow
def test_21_mb_anywhere_are_known_within_200_kb(remote: tuple[str, Traffic], capsys: Captured) -> None:
    ref, passing = remote
    one = inspected(capsys, ref)["inspection"]

    assert one["weight_bytes"] > WEIGHTS * 0.9
    assert one["card"]["license"] == "apache-2.0"
    assert 0 < passing.received < 200_000
