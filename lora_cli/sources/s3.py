"""Amazon S3, and every server that speaks like it."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from lora_cli import __version__
from lora_cli.errors import AccessDenied, LoraCliError, MachineError, NotFound, Unreachable, UsageError
from lora_cli.settings import Settings
from lora_cli.sources.aws import Account, find_account
from lora_cli.sources.object_errors import Answered
from lora_cli.sources.objects import CONNECT_TIMEOUT_S, Bucket, ObjectSource
from lora_cli.sources.urls import host

if TYPE_CHECKING:
    from lora_cli.core.manifest import SourceRule

RENEWED_AFTER = timedelta(minutes=5)
_WRONG_REGION = frozenset({"AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "Redirect"})
_EXPIRED = ("no longer accepts the session from {}", "renew it: `aws sso login`, or new keys")
_KEYS: Mapping[str, tuple[str, str]] = {
    "InvalidAccessKeyId": ("does not know the access key from {}", "check which account and endpoint it is for"),
    "SignatureDoesNotMatch": (
        "does not accept the secret of the key from {}",
        "check AWS_SECRET_ACCESS_KEY, or the profile's",
    ),
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "InvalidToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
}


class S3Source(ObjectSource):
    """Buckets of S3 as a source. Credentials are looked for when the first bucket is opened."""

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        """Opens no connection and looks for no credentials yet; ``rule`` says whose are used, and where."""
        super().__init__(settings)
        self._rule = rule
        self._account: Account | None = None

    def _open(self, name: str) -> Bucket:
        from obstore.exceptions import BaseError
        from obstore.store import S3Store

        account = self._account = self._account or find_account(os.environ, self._rule)
        more: dict[str, Any] = {"endpoint": account.endpoint} if account.endpoint else {}
        if account.keys is not None:
            more["credential_provider"] = lambda: _provided(account)
        try:
            store = S3Store(
                name,
                region=account.region,
                # obstore would take half a pair of keys in the environment for an error.
                access_key_id="",
                secret_access_key="",
                skip_signature=account.keys is None,
                request_payer=account.requester_pays,
                client_options=client_options(self._settings, account.endpoint),
                retry_config={"max_retries": 0, "retry_timeout": timedelta(0)},
                **more,
            )
        except (BaseError, ValueError) as error:
            raise UsageError(
                f"s3://{name} cannot be opened with these settings ({type(error).__name__})",
                hint="check AWS_ENDPOINT_URL, AWS_REGION and the other AWS_ variables",
            ) from error
        return Bucket(name, store, host(account.endpoint) if account.endpoint else "S3", account.found_in)

    def _explained(self, answer: Answered, bucket: Bucket, what: str) -> LoraCliError:
        if answer.code == "NoSuchBucket":
            hint = "check its spelling, and the endpoint (AWS_ENDPOINT_URL)"
            return NotFound(f"{what}: there is no bucket {bucket.name} at {bucket.server}", hint=hint)
        if answer.status in (301, 307) or answer.code in _WRONG_REGION:
            region = answer.region or "REGION, the bucket's own"
            return NotFound(f"{what}: the bucket {bucket.name} is in another region", hint=f"set AWS_REGION={region}")
        if answer.code == "RequestTimeTooSkewed":
            return MachineError(f"{what}: {bucket.server} has another time than this machine", hint="set the clock")
        if answer.status in (401, 403) or answer.code in _KEYS or answer.code == "AccessDenied":
            return _denied(answer, bucket, what)
        said = " ".join(filter(None, (str(answer.status), answer.code, answer.message)))
        if answer.status == 404:
            hint = "check its spelling, and whether the endpoint (AWS_ENDPOINT_URL) speaks S3"
            return NotFound(f"{what}: {bucket.server} has no such thing ({said})", hint=hint)
        hint = "check the endpoint (AWS_ENDPOINT_URL), or try again later"
        return Unreachable(f"{what}: {bucket.server} answered {said}", hint=hint)


def client_options(settings: Settings, endpoint: str) -> Any:
    """How obstore's connections behave: none may be silent for longer than ``settings.timeout_s``."""
    return {
        "allow_http": endpoint.lower().startswith("http://"),
        # The longest time of a whole answer; how long it is silent is what counts.
        "timeout": timedelta(days=7),
        "read_timeout": timedelta(seconds=settings.timeout_s),
        "connect_timeout": timedelta(seconds=min(settings.timeout_s, CONNECT_TIMEOUT_S)),
        "user_agent": f"lora-cli/{__version__}",
    }


def _provided(account: Account) -> Any:
    """Keys as obstore wants them from time to time."""
    assert account.keys is not None
    keys = account.keys()
    return {
        "access_key_id": keys.access_key,
        "secret_access_key": keys.secret,
        "token": keys.token or None,
        "expires_at": None if account.lasting else datetime.now(UTC) + RENEWED_AFTER,
    }


def _denied(answer: Answered, bucket: Bucket, what: str) -> LoraCliError:
    if answer.code in _KEYS:
        wrong, hint = _KEYS[answer.code]
        return AccessDenied(f"{what}: {bucket.server} {wrong.format(bucket.user)}", hint=hint)
    told = f": {answer.message}" if answer.message else ""
    if bucket.user == "nobody":
        hint = "it is not public: unset AWS_SKIP_SIGNATURE, and give credentials"
        return AccessDenied(f"{what}: {bucket.server} lets nobody in without credentials{told}", hint=hint)
    hint = f"it needs s3:ListBucket on {bucket.name} and s3:GetObject on what is in it"
    return AccessDenied(f"{what}: {bucket.server} forbids it to the credentials from {bucket.user}{told}", hint=hint)
