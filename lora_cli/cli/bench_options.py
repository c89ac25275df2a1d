"""What the command line of ``lora-cli serve-bench`` asks for."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lora_cli.cli.output import ReportFormat
from lora_cli.cli.warming import Forward
from lora_cli.errors import UsageError
from lora_cli.tiers import view as tiers


class Objective(StrEnum):
    """What an eviction policy is to make small."""

    STALL = "stall"
    HITS = "hits"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """Each option as it was given; what is None, False or an empty list was not, nor an empty base or API key."""

    refs: list[str] | None
    manifest: Path | None
    base: str
    policy: Path | None
    simulate: bool
    url: str | None
    forward: Forward | None
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
    api_key: str
    lora_modules: list[str] | None
    max_concurrency: int | None
    prompts: str
    goodput: list[str] | None
    control: bool
    probe_request_rate: str | None
    probe_adapter: str | None
    num_seeds: int | None
    max_loras: int | None
    max_cpu_loras: int | None
    max_lora_rank: int | None
    device: str | None
    eviction: str | None
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
    save_trace: Path | None
    save_result: bool
    result_dir: Path | None
    result_filename: str | None
    metadata: list[str] | None
    baseline: Path | None
    fail_if: list[str] | None
    output_format: ReportFormat
    output: Path | None

    @property
    def objective_or_default(self) -> tiers.Objective:
        """What eviction policies are to make small."""
        return self.objective.value if self.objective is not None else "stall"

    def given(self, names: Iterable[str]) -> Iterator[str]:
        """The flags of those of these options that were given."""
        for name in names:
            value = getattr(self, name)
            unset = value is None or value is False or value == [] or (value == "" and name in {"base", "api_key"})
            if not unset:
                yield {"refs": "REFs", "manifest": "-f"}.get(name, f"--{name.replace('_', '-')}")

    def refuse(self, names: Iterable[str], why: str, hint: str = "") -> None:
        """End the command where one of these options was given: it would change nothing.

        Raises:
            UsageError: one was given.
        """
        for flag in self.given(names):
            raise UsageError(f"{flag} {'are' if flag == 'REFs' else 'is'} {why}", hint=hint)
