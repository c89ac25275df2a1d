"""How long requests wait for their adapter: its load, and the loads before it."""

from array import array

from lora_cli.bench.simulate import Course
from lora_cli.bench.trace import Trace


def stalls_ms(trace: Trace, course: Course) -> "array[float]":
    """Milliseconds of each request, from its arrival until its adapter is in a slot; 0 where it is there.

    Loads are made one after the other in the order in which they are asked for, and requests for an adapter that is on
    its way wait for the same load. Where the trace has no times, each request comes when the one before is done, and
    waits for its own load alone.
    """
    if not trace.timed:
        return course.load_ms
    free_s = 0.0
    ready_s: dict[int, float] = {}
    found = array("d", bytes(8 * len(trace)))
    for number, (which, time_s, load_ms) in enumerate(zip(trace.which, trace.times_s, course.load_ms, strict=True)):
        if load_ms:
            free_s = max(free_s, time_s) + load_ms / 1e3
            ready_s[which] = free_s
            found[number] = (free_s - time_s) * 1e3
        elif (ready := ready_s.get(which, 0.0)) > time_s:
            found[number] = (ready - time_s) * 1e3
    return found
