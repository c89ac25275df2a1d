"""How a fetch reports its progress."""


class Progress:
    """Shows nothing; progress bars override this. Called from many threads, each with its ``adapter``'s name."""

    def began(self, adapter: str, size: int) -> None:
        """A download begins; ``size`` bytes are missing, as far as their number is known."""

    def advanced(self, adapter: str, count: int) -> None:
        """``count`` more bytes are here; a negative ``count`` takes wrong ones back."""

    def waiting(self, adapter: str) -> None:
        """This process waits for another one that downloads the same adapter."""

    def adapter_ended(self, adapter: str) -> None:
        """The adapter is done or has failed."""


SILENT = Progress()
