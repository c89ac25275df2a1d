"""``--ray``: where the tasks of a command run, here or on a cluster."""

from contextlib import AbstractContextManager, nullcontext

from lora_cli.bench.process_pool import Mapper, parallel_map


def task_mapper(ray: str | None, command: str) -> AbstractContextManager[Mapper]:
    """``parallel_map``, or its equal on the Ray cluster at this address.

    Raises:
        MissingExtra: Ray is not installed.
        Unreachable: there is no cluster.
    """
    if ray is None:
        return nullcontext(parallel_map)
    from lora_cli.fleet.ray_cluster import cluster_map

    return cluster_map(ray, command)
