"""Whether an adapter that is judged where it lies is what a manifest demands, and the policies of a run allow it."""

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Revision
from lora_cli.documents.policy import Policy
from lora_cli.errors import Refused
from lora_cli.fetching.demand import Demand, asks_again, check_allowed, check_digest, check_kept
from lora_cli.settings import Settings
from lora_cli.sources import Source, is_near
from lora_cli.validation.digest import digest_in_place, digest_of, wanted


def check_found(
    demand: Demand, ref: AdapterRef, revision: Revision, source: Source, origin: Source, settings: Settings
) -> None:
    """Judges what ``source`` found of ``ref``: its files, its digest, and whether ``origin`` lets the caller have it.

    Raises:
        Refused: a policy says no, or asks for a digest that nobody knows before the adapter is fetched.
        Corrupt: it has another digest than the manifest says.
        AccessDenied, NotFound, Offline, Unreachable: the origin must be asked, and does not let the caller have it.
    """
    if not settings.policies:
        return
    files = wanted(revision)
    check_allowed(demand, ref, settings, files=files)
    here = is_near(source, revision)
    if here and files and asks_again(ref, revision.access, settings):
        check_kept(ref, revision.id, [file.path for file in files], origin, settings)
    rules = [key for policy in settings.policies for key in _about_digests(policy)]
    if rules or demand.sha256 is not None:
        digest = digest_of(revision, files, source, here=here)
        if digest is None:
            hint = "fetch it first: lora-cli fetch verifies it, and validate then reads what was fetched"
            why = f"policy {rules[0]}: " if rules else ""
            raise Refused(f"{ref}: {why}its digest is not known before it is fetched", hint=hint)
        check_digest(demand, ref, digest)
        check_allowed(demand, ref, settings, digest=digest)


def check_demanded(demand: Demand, revision: Revision, source: Source) -> None:
    """Whether it has the digest that the manifest demands; what is not known before it is fetched is not judged.

    Raises:
        Corrupt: it has another one.
    """
    digest = digest_in_place(revision, source, here=is_near(source, revision))
    if digest is not None:
        check_digest(demand, revision.ref, digest)


def _about_digests(policy: Policy) -> list[str]:
    """The keys that say something of snapshot digests; an empty list of those allowed says that none is."""
    allow, deny = policy.allow_sha256 is not None, bool(policy.deny_sha256)
    return ["allow_sha256"] * allow + ["deny_sha256"] * deny
