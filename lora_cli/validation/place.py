"""Adapters judged where they lie: local ones in place, remote ones by their header. Nothing is written."""

from collections.abc import Callable
from os.path import lexists
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_cli.core.addresses import without_secrets
from lora_cli.core.finding import Verdict
from lora_cli.core.patterns import one_budget
from lora_cli.core.reference import AdapterRef, parse
from lora_cli.core.snapshot import Revision
from lora_cli.errors import LoraCliError
from lora_cli.reading.adapter import Opened, read_adapter
from lora_cli.settings import Settings
from lora_cli.sources import Source, is_near
from lora_cli.sources.registry import Sources
from lora_cli.validation.outcome import Checked, Stopwatch
from lora_cli.validation.verdict import Terms, companions_of, gather, judge

if TYPE_CHECKING:
    from lora_cli.core.adapter import Adapter
    from lora_cli.core.companions import Card, Companions
    from lora_cli.core.comparison import Comparison
    from lora_cli.core.lock import LockedAdapter
    from lora_cli.core.spectrum import Spectrum
    from lora_cli.fetching.demand import Demand


def is_path(text: str) -> bool:
    """Whether ``text`` is a path that exists on this machine; a link that leads nowhere exists too."""
    return "\0" not in text and lexists(Path(text).expanduser())


def check_in_place(
    text: str | AdapterRef,
    terms: Terms,
    settings: Settings,
    *,
    name: str = "",
    sources: Sources | None = None,
    demand: "Demand | None" = None,
    latest: bool = False,
    threads: int = 1,
) -> Checked:
    """Judge one adapter where it lies: a local one in place, a remote one by its header. Nothing is written.

    What the cache has of the same revision of a remote one is read from there, values too.

    Never raises for what one adapter does wrong: a ``LoraCliError`` is kept in the result. ``sources`` are shared
    with other adapters. ``demand`` must hold for it, and ``settings.policies``. With
    ``latest`` the latest checkpoint of a training run is judged. Of a remote one up to ``threads`` files are read at
    once: each is a kilobyte or so, and a round trip.
    """
    watch = Stopwatch()
    shown = without_secrets(str(text))
    source_text = shown
    revision = adapter = None
    try:
        ref = parse(text, is_path=is_path) if isinstance(text, str) else text
        source_text = str(ref)
        origin = (sources or Sources(settings)).of(ref)
        if latest:
            from lora_cli.fetching.checkpoint import LatestOf

            origin = LatestOf(origin)
        locked = demand.locked if demand is not None else None
        source = in_place(ref, settings, origin, latest=latest, locked=locked)
        revision = _permitted(ref, source, origin, demand, settings)
        ref = revision.ref
        source_text = str(ref)
        if locked is not None:
            _check_locked(revision, locked, source, settings)
        watch.lap("resolve")
        adapter, companions, card = _read(source, revision, name or shown, terms, settings, threads)
        watch.lap("read")
        evidence = gather(source, revision, adapter, terms, ref, companions)
        watch.lap("values")
        with one_budget():
            verdict, digest = _accepting(judge(adapter, terms, evidence), ref, revision, source, demand, settings)
            watch.lap("rules")
            spectrum, comparison = _numbers(Opened(source, revision, adapter), terms, watch)
    except LoraCliError as error:
        return Checked(name or shown, source_text, revision, adapter, None, watch.stage_ms, error)
    return Checked(
        adapter.name, source_text, revision, adapter, verdict, watch.stage_ms,
        digest=digest, spectrum=spectrum, comparison=comparison, card=card,
    )  # fmt: skip


def _numbers(one: Opened, terms: Terms, watch: Stopwatch) -> "tuple[Spectrum | None, Comparison | None]":
    """What is asked for of the adapter's numbers: its spectrum, and how it differs from another adapter."""
    spectrum = comparison = None
    if terms.spectrum is not None:
        from lora_cli.validation.spectrum import spectrum_in_place

        spectrum = spectrum_in_place(one, terms.base, terms.spectrum)
        watch.lap("spectrum")
    if terms.other is not None:
        from lora_cli.validation.comparison import compare_in_place

        comparison = compare_in_place(one, terms.other, terms.base)
        watch.lap("comparison")
    return spectrum, comparison


def _read(
    source: Source, revision: Revision, name: str, terms: Terms, settings: Settings, threads: int
) -> "tuple[Adapter, Companions | None, Card | None]":
    """Config and header, what stands beside them, and the model card where the terms ask for it."""

    def card() -> "Card | None":
        if not terms.card:
            return None
        from lora_cli.reading.companions import read_card

        return read_card(source, revision, here=is_near(source, revision))

    parts: tuple[Callable[[], Any], ...] = (
        lambda: read_adapter(source, revision, name, settings.max_header_bytes, threads=threads),
        lambda: companions_of(source, revision, terms, threads),
        card,
    )
    threads = 1 if is_near(source, revision) else threads
    if threads == 1:
        adapter, companions, found = (part() for part in parts)
    else:
        from lora_cli.daemon_threads import map_in_threads

        adapter, companions, found = map_in_threads(lambda part: part(), parts, threads)
    return adapter, companions, found


def _permitted(
    ref: AdapterRef, source: Source, origin: Source, demand: "Demand | None", settings: Settings
) -> Revision:
    """What ``ref`` means, where the policies allow it: judged before anything is asked, and before a file is read.

    Without a policy it is held to the digest of the manifest, where that is known and no lock tells of its bytes.
    """
    if settings.policies:
        from lora_cli.fetching.demand import ANYTHING, check_reference
        from lora_cli.validation.permitted import check_found

        check_reference(demand or ANYTHING, ref, settings)
        revision = source.resolve(ref)
        check_found(demand or ANYTHING, revision.ref, revision, source, origin, settings)
        return revision
    revision = source.resolve(ref)
    if demand is not None and demand.sha256 is not None and demand.locked is None:
        from lora_cli.validation.permitted import check_demanded

        check_demanded(demand, revision, source)
    return revision


def _check_locked(revision: Revision, locked: "LockedAdapter", source: Source, settings: Settings) -> None:
    """Whether the origin has what is locked: a folder by its bytes, any other by what it lists. Raises ``Refused``."""
    from lora_cli.fetching.locked import at_lock, check_folder
    from lora_cli.fetching.plan import USUAL
    from lora_cli.store import Store
    from lora_cli.validation.digest import wanted

    if revision.ref.scheme == "file":
        check_folder(Store(settings.cache_dir), revision, wanted(revision), locked, source)
    else:
        at_lock(revision, locked, USUAL, wanted(revision))


def _accepting(
    verdict: Verdict,
    ref: AdapterRef,
    revision: Revision,
    source: Source,
    demand: "Demand | None",
    settings: Settings,
) -> tuple[Verdict, str | None]:
    """The verdict with what the policies suppress in these bytes, and their digest, which only that asks for.

    Of a commit that is locked the lock knows the digest; of what is neither here nor locked nobody does.
    """
    if not settings.suppressions:
        return verdict, None
    from lora_cli.validation.acceptance import suppressed, today
    from lora_cli.validation.digest import digest_of, wanted

    digest = digest_of(revision, wanted(revision), source, here=is_near(source, revision))
    locked = demand.locked if demand is not None else None
    if digest is None and locked is not None and ref.pinned and locked.revision == revision.id:
        digest = locked.digest
    return suppressed(verdict, digest, settings.suppressions, today()), digest


def in_place(
    ref: AdapterRef, settings: Settings, origin: Source, *, latest: bool, locked: "LockedAdapter | None" = None
) -> Source:
    """Where ``ref`` is read without downloading it: what the cache holds of it, or its origin."""
    if ref.scheme == "file" or not settings.cache_dir.is_dir():
        return origin
    from lora_cli.fetching.here import HereFirst

    return HereFirst(origin, settings, latest=latest, locked=locked)
