"""A new operator's walk over thirty-three adapters: named, locked, judged, published without the broken ones."""

from pathlib import Path

import pytest
import yaml

from lora_cli.cli.main import main
from tests.gate.walk import BASE, DEFECTS, ENGINE, HEAD, OTHER, Capture, Origins, codes, judged, text, write_set

REFUSED = {*DEFECTS} - {"a11"}


def test_m2_m3_init_walks_a_bucket_and_a_folder_and_takes_the_base_of_the_most(
    origins: Origins, capsys: Capture
) -> None:
    hub = [source.removeprefix("hf://") for source in origins.sources.values() if source.startswith("hf")]
    assert main(["init", f"s3://{origins.bucket}", *hub, "./adapters", "--engine", "vllm"]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if OTHER in line]
    assert BASE in line
    made = yaml.safe_load(Path("set.yaml").read_text())
    assert (made["base"], made["engine"]["max_lora_rank"]) == (f"hf://{BASE}", 128)
    found = {one["name"]: one["source"].removeprefix("hf://") for one in made["adapters"]}
    assert found == {name: source.removeprefix("hf://") for name, source in origins.sources.items()}
    assert len(found) == 33


@pytest.mark.parametrize("words", [[], ["--engine", "vllm", "--max-lora-rank", "64"]], ids=["manifest", "option"])
def test_c1_a_set_is_judged_alike_with_an_empty_cache_and_after_a_fetch(
    words: list[str], origins: Origins, capsys: Capture
) -> None:
    write_set(origins.sources, HEAD if words else HEAD + ENGINE)
    first = judged(capsys, 1, "-f", "set.yaml", *words)
    assert {name: one["outcome"] for name, one in first.items()} == {
        name: "refused" if name in REFUSED else "ok" for name in origins.sources
    }
    for name, (code, said) in DEFECTS.items():
        assert any(one["code"] == code and said in one["message"] for one in first[name]["findings"]), name
    assert all(BASE in one["base"] for one in first.values())
    assert main(["fetch", "-f", "set.yaml"]) == 0
    again = judged(capsys, 1, "-f", "set.yaml", *words)
    assert {name: (one["outcome"], one["engines"], codes(one) - {"LC604"}) for name, one in first.items()} == {
        name: (one["outcome"], one["engines"], codes(one)) for name, one in again.items()
    }
    shown = text(capsys, 1, "validate", "-f", "set.yaml", *words)
    assert all(name in shown and said in shown for name, (_, said) in DEFECTS.items())
    assert "33 adapters: 27 ok, 6 failed" in shown


def published() -> set[str]:
    return {folder.name for folder in Path("served").glob("*") if (folder / "adapter_config.json").is_file()}


def test_c2_publish_leaves_the_broken_ones_out_and_names_them_also_to_the_kubelet(
    origins: Origins, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[str] = []
    monkeypatch.setattr("lora_cli.cli.output.write_termination_log", left.append)
    write_set(origins.sources)
    assert main(["fetch", "-f", "set.yaml"]) == 0
    argv = ["fetch", "-f", "set.yaml", "--locked", "--publish", "served"]
    good = {*origins.sources} - {*DEFECTS}
    for words, code in (([], 1), (["--keep-going"], 0), (["--keep-going"], 0)):
        left.clear()
        shown = text(capsys, code, *argv, *words)
        assert published() == good
        assert all(name in left[-1] and f"{name}: " in shown and said in shown for name, (_, said) in DEFECTS.items())
        assert not any(f"{name}: " in left[-1] for name in good)
    assert main([*argv, "a17", "a29", "--keep-going"]) == 1, "nothing was published"


def test_c2_no_validate_publishes_all_that_a_resolver_takes(origins: Origins) -> None:
    write_set(origins.sources)
    assert main(["fetch", "-f", "set.yaml", "--publish", "served", "--no-validate", "--keep-going"]) == 0
    assert published() == {*origins.sources} - {"a11"}


@pytest.mark.parametrize("command", [["fetch"], ["inspect", "--engine-args", "vllm"]], ids=["fetch", "inspect"])
def test_c4_a_printed_folder_keeps_its_bytes_when_another_set_has_the_name(command: list[str], capsys: Capture) -> None:
    found = []
    for project, source in (("one", "acme/a20"), ("two", "acme/a21")):
        Path(project).mkdir()
        write_set({"sql": source}, folder=project)
        assert main(["fetch", "-f", f"{project}/set.yaml"]) == 0
        capsys.readouterr()
        assert main([*command, "-f", f"{project}/set.yaml"]) == 0
        found.append(Path(capsys.readouterr().out.split("sql=")[-1].split()[0]))
        if project == "one":
            before = (found[0] / "adapter_model.safetensors").read_bytes()
    assert (found[0] / "adapter_model.safetensors").read_bytes() == before
    assert (found[1] / "adapter_model.safetensors").read_bytes() != before
