"""Who is asked for in a workload, as tests of other things than workloads need it."""

from collections.abc import Sequence

from lora_cli.bench.popularity import MeasuredPopularity, Popularity
from lora_cli.bench.workload import SyntheticWorkload, make_requests


def requested(
    names: Sequence[str], popularity: Popularity | MeasuredPopularity, requests: int, seed: int
) -> tuple[str, ...]:
    """The adapter of each request."""
    return tuple(make_requests(names, SyntheticWorkload(popularity, requests, seed)).keys())
