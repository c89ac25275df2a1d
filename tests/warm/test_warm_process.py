"""The warm process proves adapters, survives what they do, and the parent never needs torch."""

import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lora_cli.errors import MachineError, MissingExtra, Refused
from lora_cli.runtime import warm_process
from lora_cli.runtime.child_process import ProcessDied
from lora_cli.runtime.messages import OpaquePickle, Prefetch, Probe, ProbeResult, QueryTiers, TierContents
from lora_cli.runtime.plan import DEFAULT_RANK, Forward, Plan, SlotRequirements, TierLimits, plan_slots
from lora_cli.runtime.warm_process import WarmProcess, require_packages_for
from lora_cli.runtime.worker import Worker
from tests.making import (
    HIDDEN,
    Q_PROJ,
    llama_modules,
)
from tests.runtime.jobs import job
from tests.runtime.reading import LLAMA
from tests.slow import slowly

pytestmark = pytest.mark.slow

A = f"base_model.model.{Q_PROJ}.lora_A.weight"


def test_an_adapter_is_read_put_and_proved_in_the_child(warm: WarmProcess, tmp_path: Path) -> None:
    report = warm.load(job(tmp_path / "sound", modules=llama_modules(), r=6))
    assert (report.error, report.exit_code, report.stage) == ("", 0, "")
    assert report.proof is not None
    assert report.proof.holds
    assert (report.proof.weights, report.proof.dtype) == ("base", "float32")
    assert len(report.proof.modules) == len(llama_modules())
    assert list(report.stage_ms) == ["read", "slot", "proof"]
    assert all(value > 0 for value in report.stage_ms.values())
    assert (report.slot in {1, 2}, report.rank) == (True, 6)
    assert report.bytes == sum(6 * (d_in + d_out) * 4 for d_in, d_out in llama_modules().values())


def test_stages_are_told_while_they_run(warm: WarmProcess, tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    warm.on_stage = lambda name, stage: told.append((name, stage))
    warm.load(job(tmp_path / "one"))
    assert told == [("one", "read"), ("one", "slot"), ("one", "proof")]


def test_more_adapters_than_slots_are_all_proved_and_the_tiers_say_where_each_was(
    warm: WarmProcess, tmp_path: Path
) -> None:
    jobs = [job(tmp_path / f"a{seed}", seed=seed) for seed in range(4)]
    assert [warm.load(one).error for one in jobs] == ["", "", "", ""]
    # Two slots hold a3 and a2; memory holds those and a1; a0 left both.
    assert [warm.serve(jobs[i]).tier for i in (3, 2, 1, 0)] == ["gpu", "gpu", "cpu", "disk"]
    served = warm.serve(jobs[3])
    assert (served.tier, served.evicted) == ("cpu", {"gpu": 1, "cpu": 0})
    assert 0 < served.load_ms < 10_000
    assert 0 < served.forward_ms < 10_000


def test_a_plan_says_who_leaves_the_slots(base_directory: Path, tmp_path: Path) -> None:
    often, once, new = (job(tmp_path / f"a{seed}", seed=seed) for seed in range(3))
    plan = Plan(LLAMA, tuple(llama_modules()), TierLimits(2, 3, 8), base_directory, device="cpu", eviction="lfu")
    worker = Worker(plan)
    for one in (often, often, often, once, new):
        worker.serve(one)
    assert [worker.serve(one).tier for one in (often, new, once)] == ["gpu", "gpu", "cpu"]


def test_what_has_no_room_is_called_by_its_name(base_directory: Path, tmp_path: Path) -> None:
    plan = Plan(LLAMA, tuple(llama_modules()), TierLimits(1, 1, 8), base_directory, device="cpu")
    first, second = (replace(job(tmp_path / name), digest=name * 64, pinned=True) for name in "ab")
    worker = Worker(plan)
    assert worker.load(first).error == ""
    assert worker.load(replace(second, name="sql")).error.startswith("no room for sql in the gpu tier")


def test_two_names_for_the_same_bytes_share_a_slot(warm: WarmProcess, tmp_path: Path) -> None:
    one = replace(job(tmp_path / "one"), digest="d" * 64)
    other = replace(one, name="other")
    assert warm.load(one).slot == warm.load(other).slot
    assert warm.serve(other).tier == "gpu"


def test_what_is_wrong_with_one_adapter_is_its_report_and_the_next_one_is_proved(
    warm: WarmProcess, tmp_path: Path
) -> None:
    nan = np.full((4, HIDDEN), np.nan, np.float32)
    cases = {
        "dora": (job(tmp_path / "dora", config={"use_dora": True}), "read", "DoRA cannot be composed", 1),
        "rank": (job(tmp_path / "rank", r=16), "read", "has rank 16, above the maximum", 1),
        "nan": (job(tmp_path / "nan", tensors={A: nan}), "read", "contains NaN or Inf", 1),
        "zero": (
            job(
                tmp_path / "zero",
                modules={Q_PROJ: (HIDDEN, HIDDEN)},
                tensors={A.replace("lora_A", "lora_B"): np.zeros((HIDDEN, 4), np.float32)},
            ),
            "proof",
            "changes nothing",
            1,
        ),
        "cut": (job(tmp_path / "cut"), "read", "bytes before the end given in its header", 5),
    }
    weights = tmp_path / "cut" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    child = warm.pid
    for one, stage, said, code in cases.values():
        report = warm.load(one)
        assert (report.stage, report.exit_code) == (stage, code)
        assert said in report.error
    assert warm.load(job(tmp_path / "sound")).error == ""
    assert warm.pid == child


def test_what_its_header_rules_out_evicts_nobody(warm: WarmProcess, tmp_path: Path) -> None:
    good = [job(tmp_path / f"good{number}", seed=number) for number in range(3)]
    assert [warm.load(one).error for one in good] == ["", "", ""]
    before = warm.submit("", QueryTiers()).answer(TierContents)
    assert (len(before.gpu), len(before.cpu)) == (2, 3)
    for one in (job(tmp_path / "rank", r=16), job(tmp_path / "dora", config={"use_dora": True})):
        assert warm.load(one).stage == "read"
        with pytest.raises(Refused):
            warm.submit(one.name, Prefetch(one)).answer(bool)
        now = warm.submit("", QueryTiers()).answer(TierContents)
        assert (now.gpu, now.cpu) == (before.gpu, before.cpu)


def test_an_adapter_whose_proof_failed_is_in_no_tier(warm: WarmProcess, tmp_path: Path) -> None:
    idle = job(tmp_path / "idle", tensors={A.replace("lora_A", "lora_B"): np.zeros((HIDDEN, 4), np.float32)})
    assert warm.load(idle).exit_code == 1
    assert warm.serve(idle).tier == "disk"
    assert warm.load(idle).exit_code == 1


def test_serving_what_cannot_be_loaded_raises_its_reason(warm: WarmProcess, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="rank 16"):
        warm.serve(job(tmp_path / "rank", r=16))
    with pytest.raises(Refused, match="contains NaN or Inf"):
        warm.serve(job(tmp_path / "nan", tensors={A: np.full((4, HIDDEN), np.inf, np.float32)}))


def test_an_answer_without_a_whole_model_says_what_to_do(warm: WarmProcess, tmp_path: Path) -> None:
    with pytest.raises(MachineError) as error:
        warm.answer(job(tmp_path / "one"), "hello", 3)
    assert error.value.hint == "--forward model"


@pytest.mark.parametrize("number", slowly((signal.SIGKILL, signal.SIGSEGV), signal.SIGSEGV))
def test_a_child_that_is_killed_fails_the_adapter_at_hand_only(
    warm: WarmProcess, tmp_path: Path, number: signal.Signals
) -> None:
    before, during, after = (job(tmp_path / name) for name in ("before", "during", "after"))
    assert warm.load(before).error == ""
    child, starts = warm.pid, warm.starts
    assert child is not None
    # A stopped child has the request in its pipe when it is killed: it dies with the adapter at hand.
    os.kill(child, signal.SIGSTOP)
    killer = threading.Timer(0.2, os.kill, (child, number))
    killer.start()
    if number != signal.SIGKILL:
        threading.Timer(0.3, os.kill, (child, signal.SIGCONT)).start()
    report = warm.load(during)
    killer.join()
    assert (report.name, report.exit_code) == ("during", 6)
    assert number.name in report.error
    assert report.hint
    assert warm.load(after).error == ""
    assert warm.pid != child
    assert warm.starts == starts + 1
    assert warm.serve(before).tier == "disk"


def test_ctrl_c_is_the_parents_business(warm: WarmProcess, tmp_path: Path) -> None:
    assert warm.load(job(tmp_path / "before")).error == ""
    child = warm.pid
    assert child is not None
    os.kill(child, signal.SIGINT)
    assert warm.load(job(tmp_path / "after")).error == ""
    assert warm.pid == child


def test_a_child_over_its_deadline_is_killed_and_the_next_adapter_gets_another(
    warm: WarmProcess, tmp_path: Path
) -> None:
    assert warm.load(job(tmp_path / "before")).error == ""
    assert warm.pid is not None
    os.kill(warm.pid, signal.SIGSTOP)
    warm.deadline_s = 0.3
    try:
        report = warm.load(job(tmp_path / "hung"))
    finally:
        warm.deadline_s = 60
    assert (report.exit_code, report.error) == (6, "the warm process took longer than 0.3 s and was killed")
    assert warm.load(job(tmp_path / "after")).error == ""


def test_what_is_loaded_is_served_while_another_one_loads(warm: WarmProcess, tmp_path: Path) -> None:
    loaded, fifo = job(tmp_path / "loaded"), job(tmp_path / "slow")
    assert warm.load(loaded).error == ""
    # A FIFO in the place of its weights: who opens it waits for a writer, as on a share that hangs.
    weights = tmp_path / "slow" / "adapter_model.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    with ThreadPoolExecutor() as asking:
        hanging = asking.submit(warm.load, fifo)
        assert [warm.serve(loaded).tier for _ in range(20)] == ["gpu"] * 20
        assert not hanging.done()
        weights.open("wb").close()
        assert "slow" in hanging.result(30).error


def test_many_who_ask_for_one_adapter_at_once_load_it_once(warm: WarmProcess, tmp_path: Path) -> None:
    one = job(tmp_path / "wanted")
    with ThreadPoolExecutor(16) as asking:
        tiers = list(asking.map(lambda _: warm.serve(one).tier, range(16)))
    assert tiers.count("gpu") >= 14
    told: list[tuple[str, str]] = []
    warm.on_stage = lambda name, stage: told.append((name, stage))
    other = job(tmp_path / "other")
    with ThreadPoolExecutor(16) as asking:
        list(asking.map(lambda _: warm.serve(other), range(16)))
    warm.on_stage = lambda _name, _stage: None
    assert told.count(("other", "read")) == 1


def test_a_death_fails_all_that_were_asked_and_says_whether_it_was_one_alone(warm: WarmProcess, tmp_path: Path) -> None:
    jobs = [job(tmp_path / f"d{seed}", seed=seed) for seed in range(3)]
    assert warm.load(jobs[0]).error == ""
    assert warm.pid is not None
    os.kill(warm.pid, signal.SIGSTOP)
    asked = [warm.submit(one.name, Probe(one)) for one in jobs]
    os.kill(warm.pid, signal.SIGKILL)
    deaths = []
    for one in asked:
        with pytest.raises(ProcessDied, match="SIGKILL") as death:
            one.answer(ProbeResult)
        deaths.append(death.value)
    assert [death.only_request for death in deaths] == [False] * 3
    assert warm.serve(jobs[1]).tier == "disk"


def test_an_error_that_no_one_foresaw_ends_the_child_and_its_last_words_are_the_reason(tmp_path: Path) -> None:
    plan = Plan(LLAMA, ("no.such.module",), TierLimits(1, 1, 8), device="cpu")
    with WarmProcess(plan) as process:
        report = process.load(job(tmp_path / "one"))
    assert (report.exit_code, report.hint) == (70, "please report this")
    assert report.error == "the warm process died: KeyError: 'no.such.module'"


def test_the_largest_rank_is_that_of_the_adapters_and_at_least_the_default_where_others_may_come() -> None:
    plan, small, large = Plan(LLAMA, (), TierLimits(2, 3)), SlotRequirements(4, frozenset({Q_PROJ})), 2 * DEFAULT_RANK
    others, theirs = [*llama_modules()], SlotRequirements(large, frozenset())
    assert [
        plan_slots(plan, needs, more).limits.max_lora_rank
        for needs, more in (([], []), ([small], []), ([small], others), ([small, theirs], others))
    ] == [DEFAULT_RANK, 4, DEFAULT_RANK, large]
    assert plan_slots(plan, [small]).modules == (Q_PROJ,)
    assert set(plan_slots(plan, [small], others).modules) == set(others)


def test_a_pickle_is_the_value_again_after_its_last_message_and_not_before() -> None:
    kept = pickle.loads(pickle.dumps(OpaquePickle(pickle.dumps("value"), hops=2)))
    assert kept == OpaquePickle(pickle.dumps("value"))
    assert pickle.loads(pickle.dumps(kept)) == "value"


@pytest.mark.parametrize(
    ("package", "forward", "extra"), [("torch", "modules", "warm"), ("transformers", "model", "models")]
)
def test_what_is_not_installed_is_said_before_anything_starts(
    package: str, forward: Forward, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_packages_for(forward)
    monkeypatch.setattr(warm_process, "find_spec", lambda name: None if name == package else name)
    with pytest.raises(MissingExtra, match=f"needs the package {package}") as caught:
        require_packages_for(forward)
    assert f"[{extra}]" in caught.value.hint
