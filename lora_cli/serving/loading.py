"""One adapter's way into the warm process: brought to this disk, judged, loaded and proved; what failed is noted."""

from collections.abc import Callable

from lora_cli.core.results import LoadReport
from lora_cli.errors import LoraCliError
from lora_cli.runtime.admitted import continued, failed
from lora_cli.runtime.channel import Asked
from lora_cli.runtime.child_process import Died
from lora_cli.runtime.messages import Job, Load
from lora_cli.runtime.process import WarmProcess
from lora_cli.serving.admissions import Admissions
from lora_cli.serving.counters import Counters
from lora_cli.serving.entry import Entry
from lora_cli.serving.failures import Failures


class Loading:
    """Loads adapters one by one; any thread may ask, and waits for ``process`` to stand."""

    def __init__(
        self, admissions: Admissions, process: Callable[[], WarmProcess], counters: Counters, failures: Failures
    ) -> None:
        self._admissions, self._process = admissions, process
        self._counters, self._failures = counters, failures

    def load(self, entry: Entry) -> LoadReport:
        """Bring, load and prove one adapter; its report says what went wrong."""
        name = entry.item.name
        failure = self._failures.last(name)
        if failure is not None and self._failures.wait_s(name) > 0:
            return failure.report
        report = self.try_to_load(entry)
        if report.error:
            self._failures.add(name, report)
        else:
            self._failures.clear(name)
        return report

    def try_to_load(self, entry: Entry) -> LoadReport:
        """The same, whatever failed before, and without remembering what fails now."""
        report, job = self._brought(entry)
        if job is not None:
            report = continued(report, self._loaded(entry, job))
        if report.error:
            entry.job = None  # the next try begins at its origin: this snapshot may be gone
        entry.report = report
        self._counters.load(report)
        return report

    def _brought(self, entry: Entry) -> tuple[LoadReport, Job | None]:
        """It on this disk, and judged there. What is here already and was judged before is not looked at again."""
        if entry.job is not None:
            before = entry.report or LoadReport(entry.item.name, entry.job.digest)
            digest, applied, copied_to = entry.job.digest, before.applied, before.copied_to
            return LoadReport(entry.item.name, digest, applied=applied, copied_to=copied_to), entry.job
        admitted = self._admissions.admit(entry.item, by_client=entry.by_client)
        entry.job, entry.needs, entry.remote = admitted.job, admitted.needs, not admitted.cached
        return admitted.report, admitted.job

    def bring(self, entry: Entry) -> None:
        """Have it on this disk, ahead of its load; what kept it from that is remembered."""
        report, job = self._brought(entry)
        entry.report = report
        if job is None:
            self._counters.load(report)
            self._failures.add(entry.item.name, report)

    def _loaded(self, entry: Entry, job: Job) -> LoadReport:
        """Its report by the warm process. What died of another adapter's load is tried once more."""
        for last in (False, True):
            asked: Asked | None = None
            try:
                process = self._process()
                asked = process.submit(job.name, Load(job))
                report = asked.answer(LoadReport)
            except LoraCliError as error:
                if last or not isinstance(error, Died) or error.alone:
                    stage = "start" if asked is None else asked.stage or "read"
                    return failed(LoadReport(job.name, job.digest), stage, error)
            else:
                entry.proved_by = 0 if report.error else process.starts
                return report
        raise AssertionError
