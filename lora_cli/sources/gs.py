"""Google Cloud Storage, and every server that speaks its XML API."""

import os
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import MachineError, UsageError
from lora_cli.settings import Settings
from lora_cli.sources.google import GOOGLE, VARIABLE, GoogleAccount, find_google_account
from lora_cli.sources.object_refusals import Asker, Words
from lora_cli.sources.object_wishes import Wishes
from lora_cli.sources.objects import ObjectSource, object_key
from lora_cli.sources.obstore_bucket import ObstoreBucket, client_options
from lora_cli.sources.trusted import trust_of
from lora_cli.sources.urls import host

if TYPE_CHECKING:
    from lora_cli.core.reference import AdapterRef
    from lora_cli.documents.manifest import SourceRule

_REFUSED = ("does not accept the credentials from {}", "renew them: `gcloud auth application-default login`")

_NO_TOKEN = (
    "got no token: nobody gives one for the credentials from {}",
    f"run `gcloud auth application-default login`, or set {VARIABLE}",
)


class GsSource(ObjectSource[ObstoreBucket]):
    """Buckets of Google Cloud Storage as a source. Credentials are looked for when the first bucket is opened."""

    words = Words(
        endpoint="STORAGE_EMULATOR_HOST",
        region="the region",
        anonymous="unset GOOGLE_SKIP_SIGNATURE",
        rights="storage.objects.list and storage.objects.get on {0}: the role Storage Object Viewer",
        credentials={"InvalidAuthentication": _REFUSED, "AuthenticationRequired": _REFUSED, "NoToken": _NO_TOKEN},
    )

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        """Opens no connection and looks for no credentials yet; ``rule`` says whose are used, and where."""
        super().__init__(settings)
        self._rule = rule
        self._account: GoogleAccount | None = None
        self._process = os.getpid()

    def _bucket(self, ref: "AdapterRef") -> ObstoreBucket:
        if os.getpid() != self._process:
            # obstore's threads do not follow into a child, which would wait for them for ever.
            raise MachineError(f"{ref}: gs:// cannot be read in a forked process", hint="start a new process")
        return super()._bucket(ref)

    def _stream(
        self, bucket: ObstoreBucket, revision: Revision, file: RemoteFile, start: int, end: int, *, rest: bool
    ) -> Iterator[bytes]:
        key, what = object_key(revision.ref, file), f"{revision.ref}: {file.path}"
        return bucket.stream(key, file, start, end, what, partial(self._note, revision, file), rest=rest)

    def _open(self, name: str) -> ObstoreBucket:
        from obstore.exceptions import BaseError
        from obstore.store import GCSStore

        trust = trust_of(self._settings)
        account = self._account = self._account or find_google_account(os.environ, self._rule, trust)
        more: dict[str, Any] = dict(account.config)
        more |= {"base_url": account.endpoint} if account.endpoint else {}
        more |= {"credential_provider": account.provider} if account.provider is not None else {}
        try:
            store = GCSStore(
                name,
                client_options=client_options(self._settings, account.endpoint),
                retry_config={"max_retries": 0, "retry_timeout": timedelta(0)},
                **more,
            )
        except (BaseError, ValueError) as error:
            raise UsageError(
                f"gs://{name} cannot be opened with the credentials from {account.found_in} ({type(error).__name__})",
                hint=f"check {VARIABLE}, and the other GOOGLE_ variables",
            ) from error
        server = host(account.endpoint) if account.endpoint else "Google Cloud Storage"
        # Who is busy says so to anybody.
        url = f"{account.endpoint.rstrip('/') or GOOGLE}/{name}"
        wishes = Wishes(server, lambda: (url, {}), self._settings.timeout_s)
        return ObstoreBucket(store, Asker(name, server, account.found_in), wishes, self._settings.timeout_s)
