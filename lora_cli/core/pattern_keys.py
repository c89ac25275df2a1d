"""Which keys of ``rank_pattern`` and ``alpha_pattern`` match a module: names are looked up, only patterns are tried."""

from collections.abc import Iterable, Iterator, Sequence

from lora_cli.core.patterns import LITERAL, Matcher
from lora_cli.errors import FormatError


class PatternKeys:
    """The keys of one pattern, in their order, as PEFT matches them (``Matcher.dotted_end``).

    A name is found by its parts between dots, each as long as it is: a dot is any character to PEFT.
    """

    def __init__(self, keys: Iterable[str], where: str) -> None:
        self._keys = list(keys)
        self._matcher = Matcher(where)
        self._patterns: list[int] = []
        self._names: dict[tuple[int, ...], dict[str, int]] = {}
        for place, key in enumerate(self._keys):
            if LITERAL.fullmatch(key):
                lengths = tuple(map(len, key.split(".")))
                self._names.setdefault(lengths, {}).setdefault(key, place)
            else:
                self._patterns.append(place)

    def first(self, module: str) -> str | None:
        """The first key that matches ``module``. Raises as ``Matcher.dotted_end``."""
        return next(self.matching(module), None)

    def matching(self, module: str) -> Iterator[str]:
        """The keys that match ``module``, in their order. Raises as ``Matcher.dotted_end``."""
        if "\n" in module:  # which no dot is
            tried, named = list(range(len(self._keys))), []
        else:
            tried, named = self._patterns, sorted(self._named(module))
        for place in tried:
            while named and named[0] < place:
                yield self._keys[named.pop(0)]
            if self._matcher.dotted_end(self._keys[place], module):
                yield self._keys[place]
        yield from (self._keys[place] for place in named)

    def dead(self, modules: Sequence[str]) -> list[str]:
        """The keys that match none of ``modules``. What is no regular expression, or takes too long, is not dead."""
        alive = set(modules)
        odd = [module for module in modules if "\n" in module]
        try:
            found = (place for module in modules if "\n" not in module for place in self._named(module))
            alive.update(self._keys[place] for place in found)
        except FormatError:
            return []
        return [
            key
            for key in self._keys
            if key not in alive and not self._any(key, odd if LITERAL.fullmatch(key) else modules)
        ]

    def _any(self, key: str, modules: Sequence[str]) -> bool:
        try:
            return any(self._matcher.dotted_end(key, module) for module in modules)
        except FormatError:
            return True

    def _named(self, module: str) -> Iterator[int]:
        """The places of the names that match a module without a line break."""
        self._matcher.charge(len(self._names))
        for lengths, names in self._names.items():
            start = len(module) - sum(lengths) - len(lengths) + 1
            if start < 0 or (start > 0 and module[start - 1] != "."):
                continue
            name = module[start:]
            if len(lengths) > 1 and name not in names:
                name = _dotted(name, lengths)
            if name in names:
                yield names[name]


def _dotted(name: str, lengths: tuple[int, ...]) -> str:
    """``name`` with a dot between parts of these lengths, whatever stands there."""
    parts, at = [], 0
    for length in lengths:
        parts.append(name[at : at + length])
        at += length + 1
    return ".".join(parts)
