"""The table of ``warm`` and the answers, as people read them."""

import json
import re
from dataclasses import replace

import pytest

from lora_cli.endpoint.canary import Effect
from lora_cli.endpoint.client import Refusal
from lora_cli.endpoint.reconcile import AdapterOutcome, Replica
from lora_cli.errors import EndpointError
from lora_cli.render.json import to_json
from lora_cli.render.terminal import rendered
from lora_cli.render.terminal_warm import answer_parts, endpoint_parts, load_parts, status_parts
from lora_cli.render.warm_report import EndpointsReport, WarmReport
from lora_cli.results import Answers, LoadReport, ModuleProof, Moved, Proof
from lora_cli.text import safe
from tests.render.reports import HOSTILE

MODULE = ModuleProof("model.layers.0.self_attn.q_proj", error=1.2e-7, moved=0.4, tolerance=1e-5)
PROVED = LoadReport(
    name="pirate",
    digest="ab" * 32,
    rank=4,
    applied="60/60",
    bytes=460800,
    stage_ms={"resolve": 0.312, "fetch": 12.34, "validate": 3.4, "read": 1.0, "slot": 0.4, "proof": 1203.7},
    proof=Proof((MODULE, replace(MODULE, error=4.5e-6)), "synthetic", "float32", holds=True),
)
REFUSED = LoadReport(
    name="misnested",
    applied="0/4",
    stage_ms={"resolve": 0.2, "fetch": 3.2, "validate": 1.1},
    stage="validate",
    error="LC311 nothing-applies: 0 of 4 modules apply",
    hint="validate against the base that it was trained on",
    exit_code=1,
)

AT_80 = """\
adapter    digest        outcome  applied  rank  max error  tolerance
pirate     abababababab  proved     60/60     4    4.5e-06    1.0e-05
misnested  -             refused      0/4     -          -          -

milliseconds  resolve  fetch  validate  read  slot  proof  total
pirate           0.31   12.3       3.4   1.0  0.40   1204   1221
misnested        0.20    3.2       1.1     -     -      -    4.5

misnested: refused at validate
  LC311 nothing-applies: 0 of 4 modules apply
  hint: validate against the base that it was trained on

2 adapters: 1 proved, 1 refused; proved on synthetic weights; 1226 ms in total
"""


def test_how_far_the_next_token_moved_is_told_where_the_whole_model_was_run() -> None:
    reports = [replace(PROVED, moved=Moved(32.41, 0.01234, 3, 16)), REFUSED]
    table = rendered(load_parts(reports), 80).splitlines()[8:10]
    assert [" ".join(line.split()) for line in table] == [
        "next token max |Δlogit| KL (nats) top token differs",
        "pirate 32.4 0.0123 3 of 16",
    ]
    narrow = " ".join(rendered(load_parts(reports), 40).split())
    assert "next token pirate max |Δlogit| 32.4, KL (nats) 0.0123, top token differs 3 of 16" in narrow
    document = json.loads(to_json(WarmReport(adapters=reports, answers=())))["adapters"]
    assert document[0]["moved"] == {"max_abs_logit_delta": 32.41, "kl": 0.01234, "top1_changed": 3, "positions": 16}
    assert document[1]["moved"] is None


def test_the_table_of_warm() -> None:
    assert rendered(load_parts([PROVED, REFUSED]), 80) == AT_80


def test_an_adapter_called_like_an_outcome_is_coloured_where_the_outcome_stands() -> None:
    coloured = rendered(load_parts([replace(PROVED, name="proved")]), 80, colour=True)

    assert re.search(r"^proved +abababababab  \x1b\[32mproved *\x1b\[0m", coloured, re.MULTILINE)


def test_the_base_answers_once_and_each_adapter_below() -> None:
    answers = [
        Answers("pirate", "The capital of France?", "Paris.", "Arrr!\nParis.", 12.5),
        Answers("plain", "The capital of France?", "Paris.", "Paris.", 0.25),
    ]

    assert (
        rendered(answer_parts(answers), 80)
        == """\
prompt
  The capital of France?
base
  Paris.
pirate
  Arrr!
  Paris.
  (differs from the base; max logit change 12.5)

plain
  Paris.
  (same as the base; max logit change 0.25)
"""
    )


STATUS = {
    "base": "acme/base",
    "ready": True,
    "device": "cpu",
    "dtype": "float32",
    "up_s": 75,
    "starts": 2,
    "tiers": {"gpu": {"adapters": 1, "most": 2, "bytes": 2048, "hits": 5, "evictions": 1}},
    "adapters": [
        {
            "name": "sql",
            "tier": "gpu",
            "state": "ready",
            "rank": 4,
            "bytes": 2048,
            "requests": 7,
            "worst_error": 1.2e-7,
        },
        {"name": HOSTILE, "state": "failed", "error": "gone", "hint": "look", "retry_in_s": 9},
    ],
}


@pytest.mark.parametrize("width", [50, 200])
def test_the_status_of_a_server(width: int) -> None:
    text = rendered(status_parts(STATUS), width)
    assert all(line.isprintable() for line in text.splitlines())
    told = " ".join(text.split())
    assert told.startswith("acme/base: ready, cpu float32, up 1 min 15 s, started 2 times tier")
    assert f"{' '.join(safe(HOSTILE).split())}: failed, tried again in 9 s gone hint: look" in told
    if width == 200:
        assert [line.split() for line in text.splitlines()[2:4]] == [
            ["tier", "adapters", "size", "hits", "evictions"],
            ["gpu", "1", "of", "2", "2.0", "KiB", "5", "1"],
        ]
        row = next(line for line in text.splitlines() if line.startswith("sql"))
        assert row.split() == ["sql", "gpu", "ready", "4", "2.0", "KiB", "7", "1.2e-07"]


def test_the_status_of_another_version_lacks_what_it_does_not_tell() -> None:
    lines = rendered(status_parts({"adapters": [{"name": "sql"}]}), 80).splitlines()
    assert lines[0] == "-: not ready, -"
    assert [line.split() for line in lines[-2:]] == [["adapter"], ["sql"]]


@pytest.mark.parametrize("width", [40, 80])
def test_what_was_done_on_running_servers(width: int) -> None:
    error = EndpointError("no such module", hint="look at its log")
    effect = Effect(proved=True, how="other tokens", shift=1.0, noise=0.0)
    done = (AdapterOutcome("sql", "loaded", 41.7, effect, None), AdapterOutcome("chat", "kept", 1.0, None, error))
    replicas = [
        Replica("http://pod-0:8000", "vllm", "0.32.0", None, done),
        Replica("http://pod-1", "vllm", "", error, ()),
    ]
    refused = [AdapterOutcome("bad", "failed", 0.0, None, EndpointError("not an adapter"))]
    text = rendered(endpoint_parts(EndpointsReport(servers=replicas, refused=refused)), width)
    assert text.startswith("http://pod-0:8000 (vllm 0.32.0)\n  adapter")
    told = " ".join(text.split())
    assert "chat: failed no such module hint: look at its log" in told
    assert "http://pod-1 (vllm) no such module hint: look at its log" in told
    assert "bad: failed, this version is not loaded into any server not an adapter" in told
    assert told.endswith("2 servers (1 failed): 1 loaded, 2 failed")
    if width == 80:
        assert "  sql      loaded  41.7  other tokens\n" in text
    assert rendered(
        endpoint_parts(EndpointsReport(servers=[Replica("http://x", "vllm", "", None, ())], refused=())), width
    ).endswith("0 of 1 server updated\n")


@pytest.mark.parametrize(
    ("errors", "reached"),
    [
        ((), True),
        ((None, EndpointError("no answer")), True),
        ((EndpointError("no answer"), Refusal(400, "no such adapter", "")), True),
        ((EndpointError("no answer"),) * 2, False),
    ],
)
def test_a_server_that_answers_for_one_adapter_is_reached(
    errors: tuple[EndpointError | None, ...], reached: bool
) -> None:
    done = tuple(AdapterOutcome(f"a{n}", "kept", 1.0, None, error) for n, error in enumerate(errors))
    servers = [Replica("http://pod-0", "vllm", "", None, done), Replica("http://pod-1", "vllm", "", None, ())]
    assert EndpointsReport(servers=servers, refused=()).reached is reached
    dead = Replica("http://pod-2", "vllm", "", EndpointError("no answer"), ())
    assert not EndpointsReport(servers=[*servers, dead], refused=()).reached
