"""How a fetch reports its progress."""


class Progress:
    """Shows nothing; what shows something overrides this. Called from many threads.

    ``file`` is the adapter's name and the path in it.
    """

    def began(self, file: str, size: int | None, have: int) -> None:
        """A file of ``size`` bytes is fetched, of which ``have`` were here from an earlier try."""

    def advanced(self, file: str, count: int) -> None:
        """So many more bytes of it are here; a negative ``count`` takes wrong ones back."""

    def ended(self, file: str) -> None:
        """It is complete, or given up."""

    def waiting(self, adapter: str) -> None:
        """Another process fetches the same adapter: this one waits for it."""

    def through(self, adapter: str) -> None:
        """Nothing more comes of that adapter."""


SILENT = Progress()
