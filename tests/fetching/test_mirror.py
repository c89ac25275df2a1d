"""A Hub that tells less than it could, or refuses: mirrors without sizes and digests, another server."""

from lora_cli.errors import Corrupt, Unreachable
from tests.fetching.desk import BYTES, CONFIG, FILES, README, WEIGHTS, Desk, content
from tests.hub_server import Hub


def test_without_sizes_and_digests_everything_is_fetched_once(desk: Desk) -> None:
    desk.hub.bare = True
    desk.hub.add("org/sql", {**FILES, "empty.json": "", "other.bin": b"no"})
    first = desk.bring()
    assert content(first) == BYTES
    assert desk.hub.count("/resolve/") == 3
    assert desk.bring().snapshot == first.snapshot
    assert desk.bring(f"org/sql@{first.revision}").cached
    assert desk.hub.count("/resolve/") == 3


def test_what_a_reference_means_is_remembered_for_each_server(desk: Desk) -> None:
    with Hub() as mirror:
        mirror.add("org/sql", {**FILES, CONFIG: {"r": 8}})
        found = [content(desk.bring()), content(desk.bring(hub_endpoint=mirror.endpoint))]
        for one, endpoint in zip(found, (desk.hub.endpoint, mirror.endpoint), strict=True):
            assert content(desk.bring(offline=True, hub_endpoint=endpoint)) == one


def test_without_a_size_a_body_that_is_cut_is_gone_on_with_and_never_taken_for_whole(desk: Desk) -> None:
    desk.hub.bare = True
    desk.hub.fault(WEIGHTS, times=-1, cut_at=0)
    assert isinstance(desk.fails(), Unreachable)
    desk.hub.faults.clear()
    desk.hub.fault(WEIGHTS, cut_at=1_000_000)
    assert content(desk.bring()) == BYTES
    assert any(request.range for request in desk.hub.requests)


def test_a_git_blob_id_is_held_to_also_where_no_size_is_listed(desk: Desk) -> None:
    listed = desk.hub.commit("org/sql").files
    lines = [f'{{"type": "file", "path": "{path}", "oid": "{listed[path].oid}"}}' for path in (CONFIG, README)]
    desk.hub.bare = True
    desk.hub.fault("/tree/", times=-1, status=200, body=f"[{', '.join(lines)}]")
    assert content(desk.bring()) == {name: BYTES[name] for name in (CONFIG, README)}
    desk.hub.fault(README, times=-1, flip_at=1)
    desk.hub.add("org/other", FILES)
    error = desk.fails("org/other")
    assert isinstance(error, Corrupt)
    assert "git blob" in error.message
