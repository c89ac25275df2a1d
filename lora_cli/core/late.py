"""Regular expressions that are compiled when they are first used: a start-up has dozens, and uses few."""

import re
from typing import TYPE_CHECKING, Any


class _Late:
    """Has whatever a compiled pattern has, from its first use on."""

    def __init__(self, pattern: str, flags: "int | re.RegexFlag" = 0) -> None:
        self._given = pattern, flags

    def __getattr__(self, name: str) -> Any:
        found = getattr(re.compile(*self._given), name)
        setattr(self, name, found)
        return found


if TYPE_CHECKING:
    late = re.compile
else:
    late = _Late

__all__ = ["late"]
