"""The course of a trace under Belady's policy, who knows it all."""

from array import array
from collections.abc import Sequence

from lora_cli.bench.belady import belady
from lora_cli.bench.fleet import Fleet
from lora_cli.bench.simulate import CPU, DISK, Course


def best_course(keys: Sequence[str], fleet: Fleet) -> Course:
    """Belady's in slots of equal places, and in memory on what the slots miss: no policy has more hits in slots.

    Bytes are not counted. Its cost is that of this course, and not the least possible; ``bounds`` has what that is.
    """
    hits, out_of_slots = belady(keys, fleet.gpu.items)
    missed = [number for number, hit in enumerate(hits) if not hit]
    in_memory, out_of_memory = belady([keys[number] for number in missed], fleet.cpu.items)
    found, load_ms = bytearray(len(keys)), array("d", bytes(8 * len(keys)))
    put_ms, read_ms = ({name: cost(name) for name in fleet.sizes} for cost in (fleet.put_ms, fleet.read_ms))
    for number, hit in zip(missed, in_memory, strict=True):
        key = keys[number]
        found[number] = CPU if hit else DISK
        load_ms[number] = put_ms[key] if hit else put_ms[key] + read_ms[key]
    return Course(found, load_ms, (out_of_slots, out_of_memory))
