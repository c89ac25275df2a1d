"""One adapter judged where it lies: a local one in place, a remote one by its header. Nothing is written."""

from os.path import lexists
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.core.addresses import without_secrets
from lora_cli.core.item import Item
from lora_cli.core.patterns import one_budget
from lora_cli.core.reference import AdapterRef, parse
from lora_cli.core.snapshot import Revision
from lora_cli.errors import LoraCliError
from lora_cli.reading.adapter import Opened, read_adapter, read_at_once
from lora_cli.settings import Settings
from lora_cli.sources import Source, is_near
from lora_cli.sources.registry import Sources
from lora_cli.validation.outcome import Checked, Stopwatch
from lora_cli.validation.verdict import Terms, companions_of, gather, judge, suppressed

if TYPE_CHECKING:
    from lora_cli.core.companions import Card, Companions
    from lora_cli.core.comparison import Comparison
    from lora_cli.core.lock import LockedAdapter
    from lora_cli.core.spectrum import Spectrum


def is_path(text: str) -> bool:
    """Whether ``text`` is a path that exists on this machine; a link that leads nowhere exists too."""
    return "\0" not in text and lexists(Path(text).expanduser())


def ref_of(source: str | AdapterRef) -> AdapterRef:
    """The reference that ``source`` is, or that it is written as, seen from the working directory.

    Raises:
        UsageError: it is none.
    """
    return parse(source, is_path=is_path) if isinstance(source, str) else source


def validate(item: Item, terms: Terms, settings: Settings, sources: Sources | None = None, threads: int = 1) -> Checked:
    """Judge one adapter where it lies: a local one in place, a remote one by its header. Nothing is written.

    What the cache has of the same revision of a remote one is read from there, values too. One whose name is empty is
    called what its source is. Its digest and its lock must hold, and ``settings.policies``. ``sources`` are shared with
    other adapters. Of a remote one up to ``threads`` files are read at once: each is a round trip.

    Never raises for what one adapter does wrong: a ``LoraCliError`` is kept in the result.
    """
    watch = Stopwatch()
    source_text = without_secrets(str(item.source))
    name, revision, adapter = item.name or source_text, None, None
    try:
        ref = ref_of(item.source)
        source_text = str(ref)
        source, revision = _resolve(item, ref, settings, sources or Sources(settings))
        ref = revision.ref
        source_text = str(ref)
        watch.lap("resolve")
        one, companions, card = _read(source, revision, name, terms, settings, threads)
        adapter = one.adapter
        watch.lap("read")
        evidence = gather(one, terms, ref, companions)
        watch.lap("values")
        with one_budget():
            digest = _digest(item, one, settings)
            verdict = suppressed(judge(adapter, terms, evidence), digest, settings)
            watch.lap("rules")
            spectrum, comparison = _numbers(one, terms, watch)
    except LoraCliError as error:
        return Checked(name, source_text, revision, adapter, None, watch.stage_ms, error)
    return Checked(
        name, source_text, revision, adapter, verdict, watch.stage_ms,
        digest=digest, spectrum=spectrum, comparison=comparison, card=card,
    )  # fmt: skip


def _resolve(item: Item, ref: AdapterRef, settings: Settings, sources: Sources) -> tuple[Source, Revision]:
    """What ``ref`` means and where it is read, where policies, digest and lock allow it.

    Policies are asked before anything is asked for, and before a file is read.
    """
    origin = sources.of(ref)
    if item.latest:
        from lora_cli.fetching.checkpoint import LatestOf

        origin = LatestOf(origin)
    source = in_place(ref, settings, origin, latest=item.latest, locked=item.locked)
    if not settings.policies and item.sha256 is None:
        revision = source.resolve(ref)
    else:
        from lora_cli.validation.permitted import permitted

        revision = permitted(item, ref, source, origin, settings)
    if item.locked is not None:
        _check_locked(revision, item.locked, source, settings)
    return source, revision


def in_place(
    ref: AdapterRef, settings: Settings, origin: Source, *, latest: bool = False, locked: "LockedAdapter | None" = None
) -> Source:
    """Where ``ref`` is read without downloading it: what the cache holds of it, or its origin."""
    if ref.scheme == "file" or not settings.cache_dir.is_dir():
        return origin
    from lora_cli.fetching.here import HereFirst

    return HereFirst(origin, settings, latest=latest, locked=locked)


def _check_locked(revision: Revision, locked: "LockedAdapter", source: Source, settings: Settings) -> None:
    """Whether the origin has what is locked: a folder by its bytes, any other by what it lists. Raises ``Refused``."""
    from lora_cli.fetching.locked import at_lock, check_folder
    from lora_cli.fetching.plan import USUAL
    from lora_cli.store import Store
    from lora_cli.validation.permitted import wanted

    if revision.ref.scheme == "file":
        check_folder(Store(settings.cache_dir), revision, wanted(revision), locked, source)
    else:
        at_lock(revision, locked, USUAL, wanted(revision))


def _read(
    source: Source, revision: Revision, name: str, terms: Terms, settings: Settings, threads: int
) -> "tuple[Opened, Companions | None, Card | None]":
    """Config and header, what stands beside them, and the model card where the terms ask for it."""
    here = is_near(source, revision)
    threads = 1 if here else threads

    def card() -> "Card | None":
        if not terms.card:
            return None
        from lora_cli.reading.companions import read_card

        return read_card(source, revision, here=here)

    adapter, companions, found = read_at_once(
        threads,
        lambda: read_adapter(source, revision, name, settings.max_header_bytes, threads=threads),
        lambda: companions_of(source, revision, terms, threads),
        card,
    )
    return Opened(source, revision, adapter), companions, found


def _digest(item: Item, one: Opened, settings: Settings) -> str | None:
    """The snapshot digest, which only policies that suppress something ask for.

    Of a commit that is locked the lock knows it; of what is neither here nor locked nobody does.
    """
    if not settings.suppressions:
        return None
    from lora_cli.validation.permitted import digest_of, wanted

    revision, locked = one.revision, item.locked
    digest = digest_of(revision, wanted(revision), one.source)
    if digest is None and locked is not None and revision.ref.pinned and locked.revision == revision.id:
        return locked.digest
    return digest


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
