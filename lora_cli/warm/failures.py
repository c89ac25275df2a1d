"""Failed adapters: their HTTP status, the rule that refused them, and when they are tried again. Torch-free."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic

from lora_cli.results import LoadReport

STATUS: Mapping[int, tuple[int, str]] = {
    1: (422, "UnprocessableEntityError"),
    2: (400, "BadRequestError"),
    3: (404, "NotFoundError"),
    4: (503, "ServiceUnavailableError"),
    5: (502, "BadGatewayError"),
    6: (503, "ServiceUnavailableError"),
}
"""HTTP status and vLLM's name of it by the exit code that the error would end a command with."""

FIRST_S, LONGEST_S = 1.0, 300.0
"""An adapter that failed is tried again after 1 s, then 2, 4, … 300 s."""


def rule_of(report: LoadReport) -> str:
    """The code of the rule that refused an adapter (``LC301``), else the stage at which it failed."""
    found = re.match(r"LC\d{3}(?= )", report.error)
    return found[0] if found else report.stage or "load"


@dataclass(slots=True, kw_only=True)
class Backoff:
    """The last failure of ``failures`` in a row, and the time (``time.monotonic``) of the next attempt."""

    failure: LoadReport | None = None
    failures: int = 0
    retry_at: float = 0.0

    def record_result(self, report: LoadReport) -> None:
        """Record the result of an attempt."""
        if not report.error:
            self.failure, self.failures, self.retry_at = None, 0, 0.0
            return
        wait_s = min(FIRST_S * 2.0 ** min(self.failures, 30), LONGEST_S)
        self.failure, self.failures, self.retry_at = report, self.failures + 1, monotonic() + wait_s

    @property
    def retry_in_s(self) -> float:
        """Seconds until the next attempt is allowed; 0 if it is now."""
        return max(0.0, self.retry_at - monotonic())
