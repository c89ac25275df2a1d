"""What new users ran into, where no other test is named after it (c1 to c5 were critical, m1 to m21 major)."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.cli.running import Run
from tests.cli.test_startup import modules_after
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("judged_adapters")

WARM = "warm good bad --base base --device cpu"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_c5_the_first_command_of_the_first_page_is_for_ones_own_adapters() -> None:
    assert re.findall(r"^\$ (.*)", README, re.MULTILINE)[0].startswith("lora-cli validate ./my-adapters")


def test_m19_the_first_page_installs_with_one_line_and_tells_how_to_do_without_cuda() -> None:
    install = README.partition("## Install")[2].partition("\n## ")[0]
    assert re.findall(r"^\$ (\S+ \S+ \S+)", install, re.MULTILINE)[0] == "pip install ."
    assert "download.pytorch.org/whl/cpu" in install


def test_m8_without_a_network_the_adapter_is_judged_and_its_base_is_unchecked(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    assert "1 adapter: 1 unchecked" in run("validate good").text
    assert "LC302" in run("validate bad", 1).text


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "shown"), [("", False), ("-v", True)])
def test_m16_warm_tells_times_to_those_who_ask_for_them(flag: str, shown: bool, run: Run) -> None:
    assert ("milliseconds" in run(f"{WARM} {flag}", 1).out) == shown


@pytest.mark.slow
def test_m14_an_alert_can_name_the_adapter_that_fails_and_all_metrics_are_ours(run: Run) -> None:
    run(f"{WARM} --metrics-file lora.prom", 1)
    lines = [line for line in Path("lora.prom").read_text().splitlines() if line[0] != "#"]
    assert 'lora_cli_adapter_failed{adapter="bad",rule="LC302"} 1.0' in lines
    assert [line for line in lines if not line.startswith("lora_cli_") or '"None"' in line] == []


def test_m17_files_are_copied_to_memory_without_torch() -> None:
    with TemporaryDirectory(dir="/dev/shm") as memory:
        line = f"fetch ./good --base-name tiny/base --publish {memory}"
        assert "torch" not in modules_after(f"from lora_cli.cli.main import main\nassert main({line.split()!r}) == 0")
        written = Path(memory, "good/adapter_model.safetensors")
        assert written.read_bytes() == Path("good", written.name).read_bytes()


def test_m20_the_page_of_validate_shows_what_failed_and_inspect_has_none(run: Run) -> None:
    run("validate good bad --base base --format html=page.html", 1)
    assert {"LC302", "bad"} <= {*re.findall(r"\w+", Path("page.html").read_text())}
    run("inspect good --format html", 2)
