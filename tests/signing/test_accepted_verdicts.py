"""An adapter with an accepted verdict is not validated again; with a verdict on anything else it is.

The adapter has a NaN, which validation refuses, and verdicts that say that it passed.
"""

import json
import logging
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_cli.cli.adapter_selection import apply_policies
from lora_cli.cli.main import main
from lora_cli.core.adapter_request import AdapterRequest
from lora_cli.core.finding import Deployment
from lora_cli.engines import choose_engine
from lora_cli.fetching.context import FetchContext
from lora_cli.plugins.resolver import Resolver, Running
from lora_cli.reading.manifest import read_manifest, with_policies
from lora_cli.settings import Settings, load_settings
from lora_cli.signing.attestation import sign_statements
from lora_cli.signing.sign import SigningKey
from lora_cli.store import Store
from lora_cli.validation import Terms, open_base
from lora_cli.validation.fetch_and_validate import Admission, fetch_adapter, validate_fetched
from tests.making import Q_PROJ, llama_modules, write_adapter, write_base_config
from tests.plugins.test_resolver import Desk, found, refused
from tests.signing.pki import key_pair
from tests.signing.test_verdicts import written

pytestmark = pytest.mark.usefixtures("copied_processes")

NAN = {f"base_model.model.{Q_PROJ}.lora_B.weight": np.full((64, 4), np.nan, np.float32)}
VLLM = [{"engine": "vllm", "version": "0.32", "outcome": "ok"}]
PEFT = [{"engine": "peft", "version": "", "outcome": "ok"}]
STARTED: dict[str, Any] = {"tp": 1, "max_lora_rank": 16, "lora_target_modules": None}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "sql", modules=llama_modules(), tensors=NAN)
    write_base_config(tmp_path / "base")
    key_pair(tmp_path, "ci")
    assert main(["validate", "./sql", "--base", "base", "--attest", "verdicts.jsonl", "--key", "ci.key"]) == 1


def attest(*verdicts: dict[str, Any], engine: str = "") -> None:
    """Writes verdicts on the adapter, each passed but for what is given, and the policy that requires one."""
    (like,) = written()
    statements = []
    for given in verdicts:
        statement = json.loads(json.dumps(like))
        ours, predicate = dict(given), statement["predicate"]
        predicate["result"] = ours.pop("result", "PASSED")
        predicate["configuration"] = ours.pop("configuration", predicate["configuration"])
        predicate["lora-cli"] |= {"deployment": STARTED, **ours}
        statements.append(statement)
    Path("verdicts.jsonl").write_text(sign_statements(statements, SigningKey(Path("ci.key"))))
    entry = {"attestations": ["verdicts.jsonl"], "keys": ["ci.pub"], "engine": engine}
    Path("policy.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: Policy\nrequire_verdict: [{json.dumps(entry)}]\n")


def admit(
    engine: str = "vllm@0.32.0",
    *,
    deployment: Deployment | None = None,
    policy: bool = True,
    settings: Settings | None = None,
    **terms: Any,
) -> Admission:
    settings = settings or apply_policies(load_settings({}, {"LORA_CLI_CACHE_DIR": "cache"}), None, Path("policy.yaml"))
    settings = settings if policy else replace(settings, policies=())
    engines = (choose_engine(engine),) if engine else ()
    started = deployment or Deployment(max_lora_rank=16 if engines else None)
    asked = Terms(open_base("base", settings), engines=engines, deployment=started, **terms)
    with FetchContext(Store(settings.cache_dir), settings) as context:
        return validate_fetched(fetch_adapter(AdapterRequest("sql", "./sql"), context), asked, settings)


def is_validated(admission: Admission) -> bool:
    assert admission.snapshot is not None
    refused = admission.refusal is not None and admission.refusal.message.startswith("LC501")
    assert refused or admission.refusal is None
    assert refused is not admission.judged_elsewhere
    return refused


@pytest.mark.parametrize("engine", ["", "vllm", "vllm@0.32"])
def test_what_a_verdict_covers_is_not_validated_again(engine: str) -> None:
    attest({"engines": VLLM}, engine=engine)
    admission = admit()
    assert not is_validated(admission)
    assert admission.verdict is not None
    assert admission.verdict.applied is not None
    (verdict,) = admission.provenance.verdicts
    assert (verdict.by, verdict.base, [one.engine for one in verdict.engines]) == ("ci.pub", "base", ["vllm"])
    assert is_validated(admit(policy=False))


OTHERS: list[dict[str, Any]] = [
    {"engines": [{**VLLM[0], "version": "0.33"}]},
    {"engines": [{**VLLM[0], "version": "x"}]},
    {"engines": [{**VLLM[0], "engine": "sglang", "version": "0.5.9"}]},
    {"engines": [{**VLLM[0], "outcome": "unknown"}]},
    {"engines": []},
    {"engines": PEFT},
    {"engines": VLLM, "deployment": {**STARTED, "tp": 2}},
    {"engines": VLLM, "deployment": {**STARTED, "max_lora_rank": 64}},
    {"engines": VLLM, "deployment": {**STARTED, "lora_target_modules": ["q_proj"]}},
    {"engines": VLLM, "deployment": {}},
    {"engines": VLLM, "deployment": None},
    {"engines": VLLM, "configuration": []},
    {"engines": VLLM, "configuration": [{"name": "base"}]},
    {"engines": VLLM, "configuration": [{"name": "base", "digest": {"sha256": "0" * 64}}]},
    {"engines": VLLM, "configuration": ["base"]},
]


@pytest.mark.parametrize("verdict", OTHERS)
def test_a_verdict_on_another_engine_version_base_or_start_is_none(verdict: dict[str, Any]) -> None:
    attest(verdict)
    assert is_validated(admit())


@pytest.mark.parametrize(
    ("engine", "judged", "covered"),
    [
        ("vllm@0.32.1", "0.32", True),
        ("vllm@0.32", "0.32.0", True),
        ("vllm@9.1", "9.1", True),
        ("vllm@9.1", "9.2", False),
        ("vllm@9.1", "0.33", False),
    ],
)
def test_a_version_that_has_no_profile_is_only_itself(engine: str, judged: str, covered: bool) -> None:
    attest({"engines": [{**VLLM[0], "version": judged}]})
    assert is_validated(admit(engine)) is not covered


def test_each_of_the_pinned_and_named_ones_is_asked_for() -> None:
    started = {**STARTED, "max_loras": 4, "pinned": 1, "served_model_name": "base"}
    attest({"engines": VLLM, "deployment": started})
    cases: tuple[tuple[dict[str, Any], bool], ...] = (
        ({}, True),
        ({"max_loras": 8}, True),
        ({"max_loras": 4, "pinned": 1}, True),
        ({"max_loras": 4, "pinned": 3}, False),
        ({"served_model_name": "base"}, True),
        ({"served_model_name": "sql"}, False),
    )
    for more, covered in cases:
        assert is_validated(admit(deployment=Deployment(max_lora_rank=16, **more))) is not covered


def test_the_engine_that_the_policy_does_not_name_is_validated() -> None:
    others = [{"engine": "sglang", "version": "0.5.9", "outcome": "ok"}]
    attest({"engines": VLLM + others}, engine="sglang")
    assert is_validated(admit())


@pytest.mark.parametrize("engines", [[], PEFT])
def test_the_warm_process_takes_verdicts_on_peft_and_still_checks_its_ranks(engines: list[dict[str, str]]) -> None:
    for one in engines:
        one["version"] = choose_engine("peft").version
    attest({"engines": engines, "deployment": None})
    assert not is_validated(admit(""))
    refusal = admit("", deployment=Deployment(max_lora_rank=1)).refusal
    assert refusal is not None
    assert refusal.message.startswith("LC401")
    attest({"engines": VLLM})
    assert is_validated(admit(""))


def test_the_author_of_a_manifest_cannot_replace_what_an_operator_validates() -> None:
    attest({"engines": VLLM})
    entry = {"attestations": ["verdicts.jsonl"], "keys": ["ci.pub"]}
    Path("set.yaml").write_text(
        "apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: [{name: sql, source: ./sql}]\n"
        f"policy: {{require_verdict: [{json.dumps(entry)}]}}\n"
    )
    adapter_set = read_manifest(Path("set.yaml"))
    own, policy = load_settings({}, {"LORA_CLI_CACHE_DIR": "cache"}), Path("policy.yaml")
    assert not is_validated(admit(settings=with_policies(own, adapter_set)))
    assert not is_validated(admit(settings=with_policies(own, adapter_set, policy)))
    policy.write_text("apiVersion: lora-cli/v1\nkind: Policy\n")
    admission = admit(settings=pickle.loads(pickle.dumps(with_policies(own, adapter_set, policy))))
    assert is_validated(admission)
    assert [one.by for one in admission.provenance.verdicts] == ["ci.pub"]


def test_a_verdict_before_a_failure_covers_nothing() -> None:
    attest(
        {"engines": VLLM, "time": "2026-01-01T00:00:00Z"},
        {"result": "FAILED", "time": "2026-01-02T00:00:00Z"},
        {"engines": [{**VLLM[0], "version": "0.33"}]},
    )
    admission = admit()
    assert is_validated(admission)
    assert [one.engines[0].version for one in admission.provenance.verdicts] == ["0.33"]


@pytest.mark.slow
def test_the_resolver_of_an_engine_says_whose_verdict_it_takes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "lora_cli")
    monkeypatch.setattr("lora_cli.plugins.resolver.LOOK_S", 0.0)
    desk = Desk(tmp_path)
    entry = {"attestations": [str(tmp_path / "verdicts.jsonl")], "keys": [str(tmp_path / "ci.pub")]}
    attest({"engines": VLLM})

    async def work(asked: Resolver, running: Running) -> None:
        desk.write({"sql": str(tmp_path / "sql")}, f"policy: {{require_verdict: [{json.dumps(entry)}]}}\n")
        assert await found(asked, "sql", running)
        desk.write({"sql": str(tmp_path / "sql")})
        error = await refused(asked, "sql", running)
        assert (error.status, "LC501" in error.message) == (422, True)

    desk.ask(work)
    assert [one.judged_elsewhere for one in desk.seen] == [True, None]
    (line,) = (record.getMessage() for record in caplog.records if "not validated again" in record.getMessage())
    assert line.startswith("sql: PASSED by the key ci.pub at 20")
    assert "(vllm 0.32: ok)" in line
