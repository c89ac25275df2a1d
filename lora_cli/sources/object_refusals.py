"""What the refusals of an object store mean to a user: each its own message, hint and exit code."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lora_cli.errors import AccessDenied, LoraCliError, MachineError, NotFound, Unreachable
from lora_cli.sources.object_errors import Answered

NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound"})
_WRONG_REGION = frozenset({"AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "Redirect"})


@dataclass(frozen=True, slots=True)
class Words:
    """What hints call things at one kind of store.

    ``credentials`` maps a code of the server to what it says of them and what to try; ``{}`` stands for where they are
    from. ``rights`` is what a reader needs, ``{}`` stands for the bucket. ``bucket`` is what the store calls one.
    """

    endpoint: str
    region: str
    anonymous: str
    rights: str
    credentials: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    bucket: str = "bucket"


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asked which bucket: ``server`` and ``user`` are what messages call the server and the credentials' place."""

    bucket: str
    server: str
    user: str


def explained(answer: Answered, asker: Asker, what: str, words: Words) -> LoraCliError:
    """What an answer that another try would not change means; ``what`` begins the message."""
    server, bucket, code = asker.server, asker.bucket, answer.code
    if code in NO_BUCKET:
        hint = f"check its spelling, and the endpoint ({words.endpoint})"
        return NotFound(f"{what}: there is no {words.bucket} {bucket} at {server}", hint=hint)
    if answer.status in (301, 307) or code in _WRONG_REGION:
        region = answer.region or "REGION, the bucket's own"
        return NotFound(f"{what}: the bucket {bucket} is in another region", hint=f"set {words.region}={region}")
    if code == "RequestTimeTooSkewed":
        return MachineError(f"{what}: {server} has another time than this machine", hint="set the clock")
    if answer.status in (401, 403) or code in words.credentials or code == "AccessDenied":
        return _denied(answer, asker, what, words)
    said = " ".join(filter(None, (str(answer.status), code, answer.message)))
    if answer.status == 404:
        hint = f"check its spelling, and whether the endpoint ({words.endpoint}) is the right one"
        return NotFound(f"{what}: {server} has no such thing ({said})", hint=hint)
    hint = f"check the endpoint ({words.endpoint}), or try again later"
    return Unreachable(f"{what}: {server} answered {said}", hint=hint)


def _denied(answer: Answered, asker: Asker, what: str, words: Words) -> LoraCliError:
    if answer.code in words.credentials:
        wrong, hint = words.credentials[answer.code]
        return AccessDenied(f"{what}: {asker.server} {wrong.format(asker.user)}", hint=hint)
    told = f": {answer.message}" if answer.message else ""
    if asker.user == "nobody":
        hint = f"it is not public: {words.anonymous}, and give credentials"
        return AccessDenied(f"{what}: {asker.server} lets nobody in without credentials{told}", hint=hint)
    forbidden = f"{what}: {asker.server} forbids it to the credentials from {asker.user}{told}"
    return AccessDenied(forbidden, hint=f"it needs {words.rights.format(asker.bucket)}")
