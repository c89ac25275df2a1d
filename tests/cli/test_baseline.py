"""What does not count: accepted findings."""

import re
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import make_loud
from tests.cli.running import Run

pytestmark = pytest.mark.usefixtures("judged_adapters")

KNOWN = Path("known.yaml")
WARNING = "--base base --fail-on warning"


def reasons() -> list[str]:
    return [one["reason"] for one in yaml.safe_load(KNOWN.read_text())["findings"]]


def test_only_what_is_new_counts(run: Run) -> None:
    run(f"validate bad {WARNING} --write-baseline known.yaml")
    assert reasons() == ["bad: adapter_model.safetensors: model.layers.0.self_attn.q_proj"]
    assert run(f"validate bad {WARNING} --baseline known.yaml").text.endswith("1 adapter: 1 accepted")
    said = run(f"validate bad loud {WARNING} --baseline known.yaml", 1).text
    assert "(known.yaml): bad" in said
    assert said.endswith("2 adapters: 1 accepted, 1 failed")


def test_a_baseline_holds_for_the_next_version_and_from_a_manifest_by_name(run: Run) -> None:
    adapters = "[{name: tone, source: ./loud}]"
    Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters: {adapters}\n")
    run("validate -f set.yaml --write-baseline known.yaml")
    make_loud(1001.0)
    assert reasons()[0].startswith("tone: ")
    run("validate -f set.yaml --baseline known.yaml --fail-on warning")
    run(f"validate loud {WARNING} --baseline known.yaml", 1)


def test_what_is_accepted_for_an_engine_counts_for_another(run: Run) -> None:
    run(f"validate bad {WARNING} --engine vllm --write-baseline known.yaml")
    for engine, code in (("vllm", 0), ("vllm@0.32", 0), ("sglang", 1), ("vllm --engine sglang", 1)):
        run(f"validate bad {WARNING} --engine {engine} --baseline known.yaml", code)


def test_nothing_that_people_wrote_in_it_is_lost(run: Run) -> None:
    run(f"validate bad {WARNING} --write-baseline known.yaml")
    KNOWN.write_text(re.sub("reason: .*", "reason: reviewed by Ada", KNOWN.read_text()))
    for adapters, code in (("bad", 0), ("./gone", 3), ("bad loud", 0)):
        run(f"validate {adapters} {WARNING} --write-baseline known.yaml", code)
        assert "reviewed by Ada" in reasons()
    for other in (KNOWN.read_text().replace("reason:", "reasom:"), "kind: AdapterSet\n"):
        KNOWN.write_text(other)
        run(f"validate bad {WARNING} --write-baseline known.yaml", 2)
        assert KNOWN.read_text() == other


@pytest.mark.parametrize(
    ("file", "content", "code"),
    [("adapter_model.safetensors", b"{", "LC102"), ("adapter_config.json", None, "LC106")],
)
def test_an_adapter_that_cannot_be_read_is_left_out_of_a_new_baseline_and_never_known(
    file: str, content: bytes | None, code: str, run: Run
) -> None:
    Path("loud", file).unlink()
    if content is not None:
        Path("loud", file).write_bytes(content)
    said = run(f"validate loud bad ./gone {WARNING} --write-baseline known.yaml", 3)
    assert "3 adapters: 1 accepted, 1 failed, 1 not read" in said.text
    assert said.err.splitlines() == [
        f"warning: known.yaml: loud is not in the baseline: it could not be read ({code})",
        "warning: known.yaml: gone is not in the baseline: it could not be read",
    ]
    assert all(reason.startswith("bad: ") for reason in reasons())
    run(f"validate loud {WARNING} --baseline known.yaml", 1)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--baseline a.json --write-baseline b.json", 2, "cannot be used together"),
        ("--baseline gone.json", 3, "there is no baseline gone.json"),
        ("--baseline base/config.json", 2, "--write-baseline"),
        ("--write-baseline no/such/known.yaml", 6, "cannot be written"),
    ],
)
def test_a_wrong_baseline_is_said_before_the_work(words: str, code: int, said: str, run: Run) -> None:
    out, err = run(f"validate bad {WARNING} {words}", code)
    assert (out, said in err) == ("", True)


def test_an_accepted_finding_has_a_reason_and_may_end(run: Run) -> None:
    run(f"validate loud {WARNING} --write-baseline known.yaml")
    text = re.sub("reason: .*", "reason: meant to be so", KNOWN.read_text())
    KNOWN.write_text(text)
    out, err = run(f"validate loud {WARNING} --baseline known.yaml")
    assert ("meant to be so: LC504 (known.yaml)" in out, err) == (True, "")
    (adapter,) = run(f"validate loud {WARNING} --baseline known.yaml --format json").document["adapters"]
    assert adapter["findings"][0]["accepted"] == {"at": "known.yaml", "reason": "meant to be so"}
    assert adapter["findings"][0]["fingerprint"] in text
    KNOWN.write_text(f"{text}  until: 2026-01-31\n")
    said = "warning: known.yaml: LC504 (meant to be so) is no longer accepted after 2026-01-31\n"
    assert run(f"validate loud {WARNING} --baseline known.yaml", 1).err == said
    KNOWN.write_text(f"{text}  until: 2126-01-31\n")
    run(f"validate loud {WARNING} --baseline known.yaml")
