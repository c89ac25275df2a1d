"""The options of ``serve-bench``, by what they are about; None is what the help text says it is."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from lora_cli.cli import typer
from lora_cli.cli.output import ReportFormat


class Objective(StrEnum):
    """What an eviction policy is to make small."""

    STALL = "stall"
    HITS = "hits"
    BYTES = "bytes"


class Answering(StrEnum):
    """What answers, where no server is named."""

    MODULES = "modules"
    MODEL = "model"


# The workload.
NumPrompts = Annotated[
    int | None,
    typer.Option(min=1, max=10_000_000, help="How many requests: 200, or 20000 with --simulate.", show_default=False),
]
Popularity = Annotated[
    str,
    typer.Option(
        help="zipf:S, geometric:A, slora-power:A, uniform, distinct, round-robin or weights.json; the first leads."
    ),
]
Drift = Annotated[
    str | None,
    typer.Option(metavar="PERCENT,EVERY", help="So many change places, each so many requests.", show_default=False),
]
Scan = Annotated[
    str | None, typer.Option(metavar="PERCENT", help="So many requests ask for all in turn.", show_default=False)
]
Sessions = Annotated[
    str | None,
    typer.Option(metavar="USERS,TURNS", help="Users who stay with an adapter for some turns.", show_default=False),
]
RequestRate = Annotated[
    str,
    typer.Option(
        metavar="PER_SECOND", help="How many come in a second; inf is one after the other, with --url at once."
    ),
]
Burstiness = Annotated[
    str, typer.Option(help="Shape of the Gamma gaps, as in vLLM: 1 is Poisson, less comes in bursts.")
]
RampUp = Annotated[
    str | None,
    typer.Option("--ramp-up-strategy", metavar="linear|exponential", help="How the rate rises.", show_default=False),
]
RampUpStart = Annotated[
    int | None, typer.Option("--ramp-up-start-rps", min=1, help="The rate at first.", show_default=False)
]
RampUpEnd = Annotated[int | None, typer.Option("--ramp-up-end-rps", min=1, help="The last rate.", show_default=False)]
InputLen = Annotated[str, typer.Option(metavar="N|LOW-HIGH", help="Tokens in.")]
OutputLen = Annotated[str, typer.Option(metavar="N|LOW-HIGH", help="Tokens out.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed is the same workload, on every machine.")]
TraceFile = Annotated[
    Path | None, typer.Option("--trace", metavar="FILE", help="Requests out of JSON lines.", show_default=False)
]
SaveTrace = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the requests as JSON lines.", show_default=False)
]

# A server.
Forward = Annotated[
    Answering | None,
    typer.Option(help="Without --url: a whole model behind a server (default), or modules alone.", show_default=False),
]
Url = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Measure the server there: http://HOST:PORT, unix:PATH.", show_default=False),
]
ApiKey = Annotated[str, typer.Option(metavar="TOKEN", help="The server's bearer token.", show_default=False)]
LoraModules = Annotated[
    list[str] | None, typer.Option(metavar="NAME...", help="Its adapters to ask for; else all that it lists.")
]
MaxConcurrency = Annotated[
    int | None, typer.Option(min=1, max=100_000, help="Most requests at once.", show_default=False)
]
Prompts = Annotated[str, typer.Option(metavar="ids|text", help="Prompts of token ids, or of so many words.")]
Goodput = Annotated[
    list[str] | None,
    typer.Option(metavar="MEASURE:MS...", help="What a good request keeps: ttft:500 tpot:50 e2el:9000."),
]
Control = Annotated[bool, typer.Option("--control", help="The same requests to the base alone, too.")]
ProbeRequestRate = Annotated[
    str | None,
    typer.Option(metavar="PER_SECOND", help="Beside the load, requests of one token.", show_default=False),
]
ProbeAdapter = Annotated[
    str | None, typer.Option(metavar="NAME", help="Whom these ask for: the first adapter.", show_default=False)
]
NumSeeds = Annotated[
    int | None, typer.Option(min=1, max=100, help="Runs, each with the next seed: 3.", show_default=False)
]

# The tiers.
MaxLoras = Annotated[int | None, typer.Option(min=1, help="Adapters on the device at once: 8.", show_default=False)]
MaxCpuLoras = Annotated[int | None, typer.Option(min=1, help="Adapters in memory at once: 32.", show_default=False)]
MaxLoraRank = Annotated[int | None, typer.Option(min=1, help="The largest rank that a slot holds.", show_default=False)]
Device = Annotated[
    str | None, typer.Option(help="What owns the slots: auto (the default), cpu or cuda.", show_default=False)
]
Eviction = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        help="Who leaves: adaptive; with --simulate several of lru, fifo, lfu, gdsf, adaptive and opt (the best).",
        show_default=False,
    ),
]

# What is simulated.
Simulate = Annotated[bool, typer.Option("--simulate", help="Only the books of the tiers: no adapters, no device.")]
NumAdapters = Annotated[
    int | None,
    typer.Option(
        min=1, max=100_000, help="Adapters that nobody trained instead of REFs; 500 are simulated.", show_default=False
    ),
]
Ranks = Annotated[str | None, typer.Option(metavar="RANK:SHARE,...", help="Their ranks: 16.", show_default=False)]
BytesPerRank = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Bytes for each rank: 5MiB, as Llama-3-8B.", show_default=False)
]
MaxGpuBytes = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Bytes of all slots; else all slots are alike.", show_default=False)
]
MaxCpuBytes = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Bytes in memory; else only their number counts.", show_default=False)
]
DiskLink = Annotated[
    str | None, typer.Option(metavar="MS,GB/S", help="A load from disk into memory: 2,7.", show_default=False)
]
GpuLink = Annotated[
    str | None, typer.Option(metavar="MS,GB/S", help="A load from memory into a slot: 1,25.", show_default=False)
]
Measured = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Loads cost what a kept result of a run in process says.", show_default=False),
]
Goal = Annotated[
    Objective | None, typer.Option("--objective", help="What adaptive and gdsf make small: stall.", show_default=False)
]
Plan = Annotated[
    list[str] | None,
    typer.Option(metavar="GOAL", help='How many slots and places: "hit_ratio>=0.95", "stall_p99_ms<300".'),
]

# The result.
BenchFormat = Annotated[ReportFormat, typer.Option("--format", help="How to write the result.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")]
SaveResult = Annotated[bool, typer.Option("--save-result", help="Keep the result as JSON, and the requests beside it.")]
ResultDir = Annotated[Path | None, typer.Option(metavar="DIRECTORY", help="Where.", show_default=False)]
ResultFilename = Annotated[str | None, typer.Option(metavar="NAME", help="Under which name.", show_default=False)]
Metadata = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="More for the JSON.")]
Baseline = Annotated[
    Path | None, typer.Option(metavar="FILE", help="An older result to compare with.", show_default=False)
]
FailIf = Annotated[list[str] | None, typer.Option(metavar="CONDITION", help='End with 1: "adaptive.stall_p99_ms>500".')]
