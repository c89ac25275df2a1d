"""What the cache makes of a web server: fetched once, told apart by what the server says, never by a guess."""

from collections.abc import Iterator

import pytest

from lora_cli.errors import UsageError
from lora_cli.fetching import download as readers
from lora_cli.fetching.pipeline import Fetched
from lora_cli.refs.request import USUAL, Selection
from tests.fetching.desk import CONFIG, README, WEIGHTS, Desk, content
from tests.web_server import Site, WebServer

FILES = {CONFIG: b'{"peft_type": "LORA"}', WEIGHTS: bytes(range(256)) * 20_000, README: b"# SQL\n"}
OTHERS = {**FILES, WEIGHTS: FILES[WEIGHTS][::-1]}
SQL = f"sql/{WEIGHTS}"


class Web:
    """A web server with an adapter, and the way to ask it."""

    def __init__(self, desk: Desk, server: WebServer) -> None:
        self.desk, self.server, self.site = desk, server, server.site

    def bring(self, selection: Selection = USUAL, **settings: object) -> Fetched:
        self.server.asked.clear()
        return self.desk.bring(f"http://{self.server.place}/sql", selection, **settings)  # type: ignore[arg-type]

    @property
    def read(self) -> set[str]:
        """The files of which more than the first byte was asked for."""
        return {asked.name for asked in self.server.asked if asked.headers.get("Range") != "bytes=0-0"}


@pytest.fixture
def web(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(readers, "RANGE", 1 << 20)
    with WebServer(Site({f"sql/{path}": data for path, data in FILES.items()})) as server:
        yield Web(desk, server)


def test_what_is_the_same_is_not_read_again_and_by_size_alone_nothing_is(web: Web) -> None:
    with pytest.raises(UsageError, match="does not list its folders"):
        web.bring(Selection(latest=True))
    assert content(web.bring()) == FILES
    assert web.bring().cached
    assert not web.read
    web.site.files[f"sql/{README}"] = b"# other\n"
    assert content(web.bring()) == {**FILES, README: b"# other\n"}
    assert web.read == {README}
    assert web.bring(offline=True).cached
    assert not web.server.asked
    web.site.etag, web.site.changed = "", None
    assert web.bring().revision.startswith("none-")
    assert web.bring().revision.startswith("none-")
    assert WEIGHTS in web.read


@pytest.mark.parametrize(
    ("obeys", "etag", "read"), [(True, "strong", OTHERS), (False, "strong", OTHERS), (True, "", FILES)]
)
def test_an_overwrite_between_two_ranges_is_never_mixed(
    web: Web, obeys: bool, etag: str, read: dict[str, bytes]
) -> None:
    seen = list[str]()
    web.site.etag, web.site.changed = etag, None

    def overwrite(path: str) -> None:
        seen.append(path)
        if seen.count(SQL) == 3:
            web.site.files[SQL] = OTHERS[WEIGHTS]

    web.site.obeys, web.site.before = obeys, overwrite
    # It is listed again, and what comes then is whole; without a version it is read as one stream.
    assert content(web.bring()) == read
