"""Amazon S3, and every server that speaks like it."""

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from lora_cli.errors import UsageError
from lora_cli.settings import Settings
from lora_cli.sources.aws import Account, find_account
from lora_cli.sources.object_refusals import Asker, Words
from lora_cli.sources.objects import Bucket, ObjectSource, client_options
from lora_cli.sources.urls import host

if TYPE_CHECKING:
    from lora_cli.core.manifest import SourceRule

RENEWED_AFTER = timedelta(minutes=5)
_EXPIRED = ("no longer accepts the session from {}", "renew it: `aws sso login`, or new keys")
_KEYS = {
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
WORDS = Words(
    endpoint="AWS_ENDPOINT_URL",
    region="AWS_REGION",
    anonymous="unset AWS_SKIP_SIGNATURE",
    rights="s3:ListBucket on {0} and s3:GetObject on what is in it",
    credentials=_KEYS,
)


class S3Source(ObjectSource):
    """Buckets of S3 as a source. Credentials are looked for when the first bucket is opened."""

    words = WORDS

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
        server = host(account.endpoint) if account.endpoint else "S3"
        return Bucket(store, Asker(name, server, account.found_in))


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
