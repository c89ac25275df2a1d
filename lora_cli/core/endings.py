"""Names of modules in a config, looked up by how the paths of modules end."""

from collections.abc import Iterable, Iterator


def endings(module: str) -> Iterator[str]:
    """The path of a module, and every ending of it after a dot, the longest first."""
    yield module
    dot = module.find(".")
    while dot >= 0:
        yield module[dot + 1 :]
        dot = module.find(".", dot + 1)


class Endings:
    """A module is in here where it has one of the names, or ends in one after a dot."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self._longest = max(map(len, self.names), default=0)

    def __contains__(self, module: str) -> bool:
        return module in self.names or self.ends(module)

    def ends(self, module: str) -> bool:
        """Whether a proper dotted ending of ``module`` is one of the names."""
        first = max(0, len(module) - self._longest - 1)
        dot = module.rfind(".", first)
        while dot >= 0:
            if module[dot + 1 :] in self.names:
                return True
            dot = module.rfind(".", first, dot)
        return False
