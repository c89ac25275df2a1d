"""Public traces: lines in their published formats, joined with adapters by a seed."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_cli.bench.popularity import SCALE, parse_popularity, read_popularity
from lora_cli.bench.public_traces import Arrivals, join_adapters, read_arrivals
from lora_cli.bench.trace import LONGEST_LINE
from lora_cli.bench.workload import AccessPattern, SyntheticWorkload
from lora_cli.cli.main import main
from lora_cli.errors import NotFound, UsageError

AZURE_2023 = """TIMESTAMP,ContextTokens,GeneratedTokens\r
2023-11-16 18:17:03.9799600,4808,10\r
2023-11-16 18:17:04.0319600,3180,8\r
2023-11-16 18:17:05.9799600,110,27\r
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-12 00:00:00+00:00,2162,5
2024-05-12 00:00:02.500000+00:00,2399,6
2024-05-12 00:00:01.001163+00:00,76,15
"""
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45.5,GPT-4,1087,230,1317,API log
118,ChatGPT,417,0,417,Conversation log
"""
BURST_SESSIONS = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5,0,3.1,ChatGPT,10,1,11,Conversation log
6,,0.5,GPT-4,20,2,22,API log
7,1,2.0,ChatGPT,30,3,33,Conversation log
8,0,1.5,ChatGPT,40,4,44,Conversation log
"""
FUNCTIONS = """HashOwner,HashApp,HashFunction,Trigger,1,2,3
o1,a1,f1,http,0,1,2
o1,a1,f2,timer,1,1,1
o2,a2,f3,queue,100,0,0
o2,a2,f1,http,0,4,0
"""
INVOCATIONS = """app,func,end_timestamp,duration
a1,f1,5160.142570018768,0.134
a2,f1,5161.280997037888,0.013
a2,f1,5241.567729949951,42.356
"""


def arrivals(folder: Path, text: str) -> Arrivals:
    (folder / "trace.csv").write_text(text)
    found = read_arrivals(folder / "trace.csv")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "title", "times", "prompts", "outputs"),
    [
        (AZURE_2023, "Azure LLM inference", [0, 0.052, 2], [4808, 3180, 110], [10, 8, 27]),
        (AZURE_2024, "Azure LLM inference", [0, 1.001163, 2.5], [2162, 76, 2399], [5, 15, 6]),
        (BURST, "BurstGPT", [0, 40.5, 113], [472, 1087, 417], [18, 230, 0]),
        ("\ufeff" + BURST, "BurstGPT", [0, 40.5, 113], [472, 1087, 417], [18, 230, 0]),
    ],
)
def test_times_start_at_0_and_rise_and_tokens_stay_with_them(
    text: str, title: str, times: list[float], prompts: list[int], outputs: list[int], tmp_path: Path
) -> None:
    found = arrivals(tmp_path, text)
    assert found.title == title
    assert list(found.times_s) == pytest.approx(times, abs=1.1e-6)
    assert (list(found.prompt_tokens), list(found.output_tokens)) == (prompts, outputs)
    assert set(found.sessions) == {0}


def test_a_file_of_another_kind_is_none_of_them(tmp_path: Path) -> None:
    for text in ("", '{"adapter": "a"}\n', "time,tokens\n1,2\n"):
        (tmp_path / "t").write_text(text)
        assert read_arrivals(tmp_path / "t") is None
    with pytest.raises(NotFound):
        read_arrivals(tmp_path / "none")


@pytest.mark.parametrize(
    "line",
    [
        "2023-11-16 18:17:06,1",
        "2023-11-16 18:17:06,1,2,3",
        "soon,1,2",
        "2023-11-16 18:17:06,-1,2",
        "2023-11-16 18:17:06,1,99999999",
        "2023-11-16 18:17:06,1," + "9" * 5000,
        "2023-11-16 18:17:06,1.5,2",
        "1" * (LONGEST_LINE + 1),
    ],
)
def test_a_wrong_line_is_named(line: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"trace\.csv: line 5: (must have 3 columns|is longer than)"):
        arrivals(tmp_path, AZURE_2023 + line + "\n")


@pytest.mark.parametrize("time", ["nan", "inf", "1e300", "-1e13"])
def test_a_time_that_is_none_is_refused(time: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="line 5: must have 6 columns, with a time"):
        arrivals(tmp_path, BURST + f"{time},m,1,1,2,API log\n")
    with pytest.raises(UsageError, match="its times span more than"):
        arrivals(tmp_path, BURST + "2e8,m,1,1,2,API log\n")
    with pytest.raises(UsageError, match="it has no requests"):
        arrivals(tmp_path, BURST.splitlines()[0])


def test_a_session_keeps_its_adapter_and_a_seed_its_requests(tmp_path: Path) -> None:
    found = arrivals(tmp_path, BURST_SESSIONS + "".join(f"9,{n},1,ChatGPT,1,1,2,API log\n" for n in ["", 0] * 50))
    names = [f"a{number}" for number in range(40)]
    traffic = SyntheticWorkload(parse_popularity("uniform"), 0, seed=3)
    trace = join_adapters(found, names, traffic)
    assert len({one.adapter for one in trace if one.prompt_tokens in (10, 40)}) == 1
    assert len({trace.which[row] for row in range(4, 104) if found.sessions[row]}) == 1
    assert len({trace.which[row] for row in range(4, 104) if not found.sessions[row]}) > 10
    assert join_adapters(found, names, traffic) == trace
    assert join_adapters(found, names, SyntheticWorkload(parse_popularity("uniform"), 0, seed=4)) != trace
    turns = SyntheticWorkload(parse_popularity("uniform"), 0, 3, AccessPattern("sessions", (1, 1000)))
    assert len(set(join_adapters(arrivals(tmp_path, BURST), names, turns).which)) == 1


def test_functions_are_dealt_out_to_adapters_in_turn(tmp_path: Path) -> None:
    (tmp_path / "day.csv").write_text(FUNCTIONS)
    found = read_popularity(str(tmp_path / "day.csv"))
    assert getattr(found, "counts", ()) == (3, 3, 100, 4)
    assert found.weights(["x", "y"]) == (SCALE, SCALE * 7 // 103)
    with pytest.raises(UsageError, match="has 4 functions, but there are 5 adapters"):
        found.weights(list("abcde"))
    (tmp_path / "two-weeks.csv").write_text(INVOCATIONS)
    assert getattr(read_popularity(str(tmp_path / "two-weeks.csv")), "counts", ()) == (1, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n", "must be counts of Azure Functions, with the columns HashOwner"),
        (FUNCTIONS + "o,a,f,http,1,2\n", "line 6: must have 7 columns"),
        (FUNCTIONS + "o,a,f,http,1,2,-3\n", "line 6: must have 7 columns, and counts"),
        (FUNCTIONS + "o,a,f,http,1,2,many\n", "line 6: must have 7 columns, and counts"),
        (FUNCTIONS + f"o,a,f,http,1,2,{10**16}\n", "line 6: must have 7 columns, and counts"),
        (INVOCATIONS + "a,f\n", "line 5: must have 4 columns"),
        (FUNCTIONS.splitlines()[0], "it has no invocations"),
    ],
)
def test_counts_that_are_none_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "day.csv").write_text(text)
    with pytest.raises(UsageError, match=r"day\.csv") as caught:
        read_popularity(str(tmp_path / "day.csv"))
    assert said in caught.value.message


def test_a_result_names_the_traces_that_it_is_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "llm.csv").write_text(AZURE_2023)
    (tmp_path / "day.csv").write_text(FUNCTIONS)
    trace, saved = ["--trace", str(tmp_path / "llm.csv")], str(tmp_path / "joined.jsonl")
    argv = ["serve-bench", "--simulate", "--num-adapters", "2", "--popularity", str(tmp_path / "day.csv"), *trace]
    assert main([*argv, "--save-trace", saved, "--format", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    workload = {"trace": trace[1], "arrivals": "Azure LLM inference", "popularity": str(tmp_path / "day.csv")}
    assert found["workload"] == workload | {"ranks": "16"}
    assert (found["num_prompts"], found["total_input_tokens"], found["span_s"]) == (3, 8098, 2.0)
    assert main(["serve-bench", "--simulate", "--trace", saved, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["total_input_tokens"] == 8098
    for flag, value in (("--num-prompts", "5"), ("--request-rate", "5")):
        assert main([*argv, flag, value]) == 2
        assert f"{flag} and --trace cannot be used together" in capsys.readouterr().err
    assert main([*argv, "--sessions", "1,9"]) == 0
