"""Hostile names of adapters, files, tensors and fields, in every format of every command that prints them."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from lora_cli.cli.main import main
from lora_cli.cli.output import write
from lora_cli.endpoint.canary import Effect
from lora_cli.endpoint.reconcile import AdapterOutcome, Replica
from lora_cli.errors import EndpointError
from lora_cli.json_schema import to_json
from lora_cli.reports.terminal import rendered
from lora_cli.reports.warm import EndpointsReport, WarmReport, human, human_endpoints, human_status
from lora_cli.results import LoadReport, ModuleProof, Proof
from lora_cli.text import safe
from lora_cli.warm.metrics import Metrics
from tests.hostile_names import NAMES, STYLE, file_name, markup_of_markdown, obeyed, texts
from tests.making import HIDDEN, Q_PROJ, write_adapter, write_base_config
from tests.schemas import check_schema
from tests.slow import slowly

Capture = pytest.CaptureFixture[str]
Say = Callable[..., str]
LOOKS = slowly([(60, True), (120, False), (60, False), (120, True)], (60, True), (120, False))
"""Columns, and whether there is colour."""


@dataclass(frozen=True)
class Machine:
    """A folder with an adapter for each hostile name, their base, and a cache that has them."""

    folder: Path
    adapters: tuple[str, ...]


def folder_name(name: str) -> str:
    """``name`` without the control characters for which a path is refused (exit code 2)."""
    return file_name("".join(char for char in name if ord(char) >= 32 and ord(char) != 127))


def write_hostile(folder: Path, name: str) -> str:
    """An adapter that has ``name`` wherever one can have a name; gives how it is asked for."""
    adapter = folder / folder_name(name)
    modules = {Q_PROJ: (HIDDEN, HIDDEN), f"model.layers.0.self_attn.{name}": (HIDDEN, HIDDEN), name: (HIDDEN, HIDDEN)}
    fields = {"base_model_name_or_path": name, name: name, "task_type": name, "rank_pattern": {name: 8}}
    write_adapter(adapter, modules=modules, r=5, config=fields, drop=lambda tensor: tensor.startswith(name))
    for ending in (".bin", ".gguf", ".txt"):
        (adapter / (file_name(name) + ending)).write_bytes(b"x")
    return str(adapter)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    folder = tmp_path_factory.mktemp("hostile")
    write_base_config(folder / "base")
    adapters = tuple(write_hostile(folder, name) for name in NAMES.values())
    # YAML takes no surrogates.
    entries = [{"name": f"a{i}", "source": one} for i, one in enumerate(adapters) if one.isprintable()]
    manifest = {"apiVersion": "lora-cli/v1", "kind": "AdapterSet", "adapters": entries}
    (folder / "set.yaml").write_text(json.dumps(manifest))
    return Machine(folder, adapters)


@pytest.fixture
def say(machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Say:
    """Runs one command line, and looks at what a terminal or a runner would obey; gives standard output."""
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(machine.folder / "cache"))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def run(*argv: str, width: int = 120, colour: bool = False, commands: bool = False) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        for variable, value in (("FORCE_COLOR", colour), ("NO_COLOR", not colour)):
            monkeypatch.setenv(variable, "1" if value else "")
        code = main(argv)
        out, err = capsys.readouterr()
        assert code in {0, 1, 3, 7}, err
        plain = STYLE.sub("", out) if colour else out
        assert commands or obeyed(plain) == []
        assert obeyed(err) == []
        return plain

    return run


Words = Callable[[Machine], list[str]]


def as_typed(text: str) -> str:
    """``text`` without blanks, which wrapping moves."""
    return "".join(text.split())


def validated(machine: Machine, *more: str) -> list[str]:
    return ["validate", *machine.adapters, "--base", str(machine.folder / "base"), "--engine", "vllm", *more]


HUMAN: dict[str, Words] = {
    "validate": validated,
    "inspect": lambda at: ["inspect", *at.adapters, "--base", str(at.folder / "base")],
    "inspect diff": lambda at: ["inspect", at.adapters[0], "--diff", at.adapters[1]],
    "inspect engine args": lambda at: ["inspect", *at.adapters, "--engine-args", "vllm"],
    "fetch": lambda at: ["fetch", *at.adapters],
    "fetch a set": lambda at: ["fetch", "-f", str(at.folder / "set.yaml")],
    "check a set": lambda at: ["fetch", "--check", "-f", str(at.folder / "set.yaml")],
    "repair": lambda at: [
        *("repair", "-f", str(at.folder / "set.yaml"), "--engine", "vllm", "--check"),
        *("--base", str(at.folder / "base")),
    ],
    "warm": lambda at: ["warm", *at.adapters, "--base", str(at.folder / "base")],
    "cache ls": lambda at: ["cache", "ls"],
    "cache show": lambda at: ["cache", "show", *at.adapters],
}
TELLING = {"warm", "validate"}
"""Commands that write each name whole."""


@pytest.mark.parametrize("command", HUMAN)
@pytest.mark.parametrize("look", LOOKS)
def test_no_terminal_obeys_a_name(
    command: str, look: tuple[int, bool], machine: Machine, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    say("fetch", *machine.adapters)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    told = as_typed(say(*HUMAN[command](machine), width=look[0], colour=look[1]))
    for name in ("rich markup", "HTML", "templates") if command in TELLING else ():
        assert as_typed(safe(folder_name(NAMES[name]))) in told


@pytest.mark.parametrize("command", ["validate", "inspect", "inspect diff", "fetch", "warm", "cache ls"])
def test_a_document_for_machines_has_names_as_they_are(command: str, machine: Machine, say: Say) -> None:
    say("fetch", *machine.adapters)
    words = list(texts(json.loads(say(*HUMAN[command](machine), "--format", "json"))))
    for name in NAMES.values() if command in {"validate", "inspect"} else ():
        assert any(written(folder_name(name)) in word for word in words)


def test_a_ci_server_finds_xml_our_own_commands_and_no_markup(
    machine: Machine, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = machine.folder / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    for line in say(*validated(machine, "--format", "github"), commands=True).split("\n")[:-1]:
        assert re.match(r"::(error|warning|notice) (file|title)=[^:]*::", line)
        assert line.isprintable()
    text = summary.read_text(encoding="utf-8")
    assert markup_of_markdown(text) == []
    assert markup_of_markdown("[a](b) <img src=x>\n\n<p>") == ["<img src=x>", "<p>", "link_open"]
    root = ET.fromstring(say(*validated(machine, "--format", "junit")))
    assert len(list(root.iter("testcase"))) == len(NAMES)
    json.loads(say(*validated(machine, "--format", "sarif")))


@pytest.mark.parametrize("name", NAMES.values(), ids=list(NAMES))
def test_what_warm_tells_is_obeyed_by_no_terminal_and_read_by_machines(name: str, capsys: Capture) -> None:
    run = WarmReport(adapters=loads(name))
    endpoints = EndpointsReport(servers=[replica(name)], refused=replica(name).adapters)
    for one in (human(run), human_status(status(name)), human_endpoints(endpoints)):
        write(rendered(one, 60, colour=True))
        assert obeyed(STYLE.sub("", capsys.readouterr().out)) == []
    for text in (to_json(run), to_json(endpoints)):
        assert obeyed(text) == []
        assert written(name) in texts(json.loads(text))
        check_schema(json.loads(text))
    metrics = Metrics()
    for report in loads(name):
        metrics.loaded(report)
        metrics.failed[report.name] = report
    # A line of Prometheus ends with a line feed, and with nothing else.
    shape = re.compile(r"# .*|\w+(\{(\w+=\"([^\"\\]|\\.)*\",?)*\})? [\d.e+]+")
    assert all(map(shape.fullmatch, metrics.text().rstrip("\n").split("\n")))


def written(name: str) -> str:
    """``name`` as a document has it: what is not Unicode is escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def loads(name: str) -> list[LoadReport]:
    proof = Proof((ModuleProof(name, 1e-7, 0.4, 1e-5),), "synthetic", name, holds=True)
    good = LoadReport(name, "ab" * 32, 4, name, 8, name, {name: 1.0}, proof)
    return [good, LoadReport(name, stage=name, error=name, hint=name, exit_code=1)]


def status(name: str) -> dict[str, Any]:
    failing = {"name": name, "tier": name, "error": name, "stage": name, "hint": name, "retry_in_s": 3}
    good = {"name": name, "tier": name, "proved": True, "rank": name, "bytes": 8, "requests": name, "worst_error": 1.0}
    tiers = {name: {"adapters": name, "most": name, "bytes": 8, "hits": name, "evictions": name}}
    return {"base": name, "ready": True, "device": name, "dtype": name, "up_s": 3, "tiers": tiers,
            "adapters": [failing, good]}  # fmt: skip


def replica(name: str) -> Replica:
    error = EndpointError(name, hint=name)
    done = (
        AdapterOutcome(name, "loaded", 1.0, Effect(True, name, 0.5), None),
        AdapterOutcome(name, "failed", 1.0, None, error),
    )
    return Replica(name, name, name, error, done)
