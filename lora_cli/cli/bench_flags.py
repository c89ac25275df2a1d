"""What was said on the command line of ``serve-bench``, by what it is about, as it was said."""

from pathlib import Path

from lora_cli.cli.bench_options import Objective
from lora_cli.cli.output import ReportFormat
from lora_cli.core.frozen import dataclass


@dataclass(frozen=True, slots=True)
class LineupFlags:
    """Which adapters are measured."""

    refs: list[str] | None
    manifest: Path | None
    base: str
    policy: Path | None


@dataclass(frozen=True, slots=True)
class WorkloadFlags:
    """What is asked for."""

    num_prompts: int | None
    popularity: str
    drift: str | None
    scan: str | None
    sessions: str | None
    request_rate: str
    burstiness: str
    ramp_up_strategy: str | None
    ramp_up_start_rps: int | None
    ramp_up_end_rps: int | None
    input_len: str
    output_len: str
    seed: int
    trace: Path | None


@dataclass(frozen=True, slots=True)
class TierFlags:
    """The tiers, and who leaves them."""

    max_loras: int | None
    max_cpu_loras: int | None
    max_lora_rank: int | None
    device: str | None
    eviction: str | None


@dataclass(frozen=True, slots=True)
class FleetFlags:
    """What is there only where it is simulated."""

    num_adapters: int | None
    ranks: str | None
    bytes_per_rank: str | None
    max_gpu_bytes: str | None
    max_cpu_bytes: str | None
    disk_link: str | None
    gpu_link: str | None
    measured: Path | None
    objective: Objective | None
    plan: list[str] | None


@dataclass(frozen=True, slots=True)
class LiveFlags:
    """What is there only where a server is measured."""

    url: str | None
    api_key: str
    lora_modules: list[str] | None
    max_concurrency: int | None
    prompts: str
    goodput: list[str] | None
    control: bool
    probe_request_rate: str | None
    probe_adapter: str | None
    num_seeds: int | None


@dataclass(frozen=True, slots=True)
class ResultFlags:
    """What becomes of the result."""

    output_format: ReportFormat
    output: Path | None
    save_trace: Path | None
    save_result: bool
    result_dir: Path | None
    result_filename: str | None
    metadata: list[str] | None
    baseline: Path | None
    fail_if: list[str] | None
