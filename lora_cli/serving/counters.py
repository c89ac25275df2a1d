"""What the server counts: requests by tier, loads by stage, failures."""

import threading
from collections import Counter, defaultdict

from lora_cli.core.results import LoadReport


class Counters:
    """Sums since the server began; any thread may add to them."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.loads = 0
        self.load_bytes = 0
        self.stage_s: defaultdict[str, float] = defaultdict(float)
        self.failures: Counter[str] = Counter()
        self._lock = threading.Lock()

    def request(self, tier: str) -> None:
        """One request, whose adapter was found in ``tier``."""
        with self._lock:
            self.requests[tier] += 1

    def load(self, report: LoadReport) -> None:
        """One load, with the seconds of each stage; or the stage where it failed."""
        with self._lock:
            for stage, ms in report.stage_ms.items():
                self.stage_s[stage] += ms / 1e3
            if report.error:
                self.failures[report.stage or "load"] += 1
            else:
                self.loads += 1
                self.load_bytes += report.bytes
