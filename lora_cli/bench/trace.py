"""What is asked of a server, and when: one trace for every policy and every server that is compared."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Request(NamedTuple):
    """One request: seconds from the start of the run, the adapter's name, and tokens in and out."""

    time_s: float
    adapter: str
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order in which they come, in columns: a million of them take 20 MB.

    ``which[i]`` is the place in ``names`` of the adapter that request ``i`` asks for. Times never fall.
    """

    names: tuple[str, ...]
    which: "array[int]"
    times_s: "array[float]"
    prompt_tokens: "array[int]"
    output_tokens: "array[int]"

    def __len__(self) -> int:
        return len(self.which)

    def __iter__(self) -> Iterator[Request]:
        names = self.names
        for which, *others in zip(self.which, self.times_s, self.prompt_tokens, self.output_tokens, strict=True):
            yield Request(others[0], names[which], int(others[1]), int(others[2]))

    def keys(self) -> list[str]:
        """The adapter of each request."""
        names = self.names
        return [names[which] for which in self.which]

    @property
    def timed(self) -> bool:
        """Whether it says when requests come: one whose requests all come at 0 does not."""
        return bool(self.times_s) and self.times_s[-1] > 0


def trace_of(requests: Iterable[Request]) -> Trace:
    """The trace of these requests; adapters are named in the order in which they are first asked for."""
    places: dict[str, int] = {}
    which, times_s, prompt_tokens, output_tokens = array("I"), array("d"), array("I"), array("I")
    for one in requests:
        which.append(places.setdefault(one.adapter, len(places)))
        times_s.append(one.time_s)
        prompt_tokens.append(one.prompt_tokens)
        output_tokens.append(one.output_tokens)
    return Trace(tuple(places), which, times_s, prompt_tokens, output_tokens)
