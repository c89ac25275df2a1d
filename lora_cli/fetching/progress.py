"""How a fetch reports its progress."""


class Progress:
    """Shows nothing; progress bars override this. Called from many threads.

    ``file`` is the adapter's name and the path in it.
    """

    def began(self, file: str, size: int | None, have: int) -> None:
        """The download of a file of ``size`` bytes begins, of which ``have`` are from an earlier attempt."""

    def advanced(self, file: str, count: int) -> None:
        """``count`` more bytes were received; a negative ``count`` takes wrong ones back."""

    def ended(self, file: str) -> None:
        """The file is complete, or was given up."""

    def waiting(self, adapter: str) -> None:
        """This process waits for another one that downloads the same adapter."""

    def adapter_ended(self, adapter: str) -> None:
        """The adapter is done or has failed."""


SILENT = Progress()
