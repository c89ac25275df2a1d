"""Adapters judged and fetched on a real two-node Ray cluster, one of whose nodes is taken away in the middle."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from lora_cli.fleet import joined, spread
from tests.fleet.tasks import deadly, refusing, slowly
from tests.making import llama_modules, write_adapter, write_base_config

MANY = 120
QUERIES = llama_modules(["q_proj"])

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet")
    write_base_config(folder / "base")
    names = []
    for number in range(MANY):
        broken = {"drop": lambda name: "lora_B" in name} if number == 40 else {}
        write_adapter(folder / f"a{number:03}", modules=QUERIES, seed=number, **broken)  # type: ignore[arg-type]
        names.append(f"  - {{name: a{number:03}, source: ./a{number:03}}}\n")
    (folder / "set.yaml").write_text(
        f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters:\n{''.join(names)}"
    )
    return folder


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, Any]:
    code = main(list(map(str, argv)))
    return code, json.loads(capsys.readouterr().out)


def test_a_fleet_is_judged_as_one_machine_judges_it(
    cluster: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["validate", "-f", folder / "set.yaml", "--format", "json"]
    code, there = run(capsys, *words, "--ray", cluster.address)
    here = run(capsys, *words)
    assert code == here[0] == 1
    assert [one["name"] for one in there["adapters"]] == [f"a{number:03}" for number in range(MANY)]
    assert [one["findings"] for one in there["adapters"]] == [one["findings"] for one in here[1]["adapters"]]


def test_a_node_that_is_lost_in_the_middle_takes_no_result_with_it(
    cluster: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    seen: list[int] = []

    def lose() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        cluster.remove_node(extra, allow_graceful=False)
        seen.append(1)

    with joined(cluster.address, "validate") as processors:
        assert processors == 3
        loss = threading.Thread(target=lose)
        loss.start()
        results = list(spread(slowly, range(96), processors, str(tmp_path / "begun"), lost=lambda item, _: -item))
        loss.join()
    assert seen == [1]
    assert results == [item * 2 for item in range(96)]


def test_one_that_kills_every_worker_is_lost_alone(cluster: Any) -> None:
    with joined(cluster.address, "validate") as processors:
        results = list(spread(deadly, range(20), processors, lost=lambda item, reason: f"{item}: {reason}"))
    assert [one for one in results if isinstance(one, str)] == ["7: every worker that ran it died: WorkerCrashedError"]
    assert [one for one in results if not isinstance(one, str)] == [item for item in range(20) if item != 7]


def test_what_a_worker_raises_is_raised_here(cluster: Any) -> None:
    with joined(cluster.address, "validate") as processors, pytest.raises(ValueError, match="2 refused"):
        list(spread(refusing, range(2), processors, lost=lambda item, _: item))


def test_a_fleet_fetches_into_the_cache_that_its_nodes_share(
    cluster: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--cache-dir", tmp_path / "cache", "fetch", "-f", folder / "set.yaml"]
    assert main([*map(str, words), "--ray", cluster.address, "--quiet"]) == 0
    # Ray prints there, too: that a node was lost, which an earlier test had killed.
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("/")]
    assert len(printed) == MANY
    assert all((Path(place) / "adapter_config.json").is_file() for place in printed)
    assert "a119" in (folder / "set.lock.yaml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nowhere:x", "Unable to parse port number from x"),
        ("127.0.0.1:9", "[Errno 111] Connection refused"),
        ("ray://127.0.0.1:9", "[Errno 111] Connection refused"),
        ("127.0.0.1:99999999", "[Errno 111] Connection refused"),
    ],
)
def test_a_cluster_that_is_not_there_is_exit_4_at_once(
    address: str, reason: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    assert main(["validate", str(folder / "a001"), "--base", str(folder / "base"), "--ray", address]) == 4
    assert time.monotonic() - began < 10
    assert capfd.readouterr().err.startswith(f"error: there is no Ray cluster at {address}: {reason}")
