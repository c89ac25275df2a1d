"""Who is asked for in a workload, as tests of other things than workloads need it."""

from collections.abc import Sequence

from lora_cli.bench.popularity import Counted, Popularity
from lora_cli.bench.workload import Shape, Traffic, make_requests

INDEPENDENT = Shape()


def requested(
    names: Sequence[str], popularity: Popularity | Counted, requests: int, seed: int, shape: Shape = INDEPENDENT
) -> tuple[str, ...]:
    """The adapter of each request."""
    return tuple(make_requests(names, Traffic(popularity, requests, seed, shape)).keys())
