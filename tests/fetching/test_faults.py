"""The same faults at every remote source: after each the cache is sound, the exit code right, and a retry completes."""

import re
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from lora_cli.errors import AccessDenied
from lora_cli.fetching.batch import fetch_all
from lora_cli.refs.request import Request
from lora_cli.store import Store
from tests.faulty_proxy import Answer
from tests.fetching.desk import MIB, WEIGHTS
from tests.fetching.places import CLIENTS, FILES, OTHERS, WEB, Place, check_cache

pytestmark = pytest.mark.slow

HALF = MIB * 3 // 2
GET_CONFIG = "GET .*adapter.{1,3}config.{1,3}json (?!bytes=0-0$)"


def at(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("place", names, indirect=True)


def gone_after(place: Place, kind: str) -> None:
    """The weights break off in the midst, and from then on nothing comes at all."""
    place.proxy.fault(place.weights, times=1, **{kind: HALF})
    place.proxy.fault(place.weights, times=-1, **{kind: 0})


@pytest.mark.parametrize("every", [300_000, 1_300_000])
def test_a_reset_at_every_nth_byte_only_costs_time(place: Place, every: int) -> None:
    if place.proxy.raw and every < MIB:
        pytest.skip("of this protocol a mebibyte is one answer")
    if not place.ranges:
        pytest.skip("each answer begins at the beginning")
    place.proxy.fault(place.weights, reset_at=every, times=-1)
    assert place.code(retries=1) == 0
    assert len(place.starts()) >= 3 * MIB // every
    place.recovers()


@pytest.mark.parametrize("kind", ["reset_at", "cut_at"])
def test_a_server_that_breaks_off_and_is_gone_is_exit_4_and_gone_on_with(place: Place, kind: str) -> None:
    gone_after(place, kind)
    assert place.code(timeout_s=4) == 4
    place.recovers(resumed=True)


@at(*CLIENTS, "sftp")
def test_a_server_that_falls_silent_is_exit_4_and_gone_on_with(place: Place) -> None:
    gone_after(place, "stall_at")
    began = time.monotonic()
    assert place.code(timeout_s=1.5, retries=0) == 4
    assert time.monotonic() - began < 15
    place.recovers(resumed=True)


def test_one_wrong_bit_is_noticed_and_fetched_again(place: Place) -> None:
    place.proxy.fault(place.weights, flip_at=HALF, times=1)
    if not place.proxy.raw:
        place.proxy.fault(GET_CONFIG, flip_at=3, times=1)
        place.front.fault(GET_CONFIG, flip_at=3, times=1)
    assert place.code() == 0
    place.recovers()


def test_bits_that_stay_wrong_never_get_a_name(place: Place) -> None:
    place.proxy.fault(place.weights, flip_at=MIB // 2, times=-1)
    # SSH has a checksum of its own over what it sends: there it is a connection that breaks.
    assert place.code() == (4 if place.proxy.raw else 5)
    place.recovers()


@at(*WEB)
def test_a_wrong_bit_in_what_an_earlier_run_left_is_found_by_the_next(place: Place) -> None:
    place.proxy.fault(place.weights, flip_at=MIB // 2, cut_at=HALF, times=1)
    place.proxy.fault(place.weights, reset_at=0, times=-1)
    assert place.code() == 4
    place.recovers()
    assert 0 in place.starts()


def other_body(change: Callable[[bytes], bytes], *, claims_all: bool = False) -> Callable[[Answer], Answer]:
    def answer(said: Answer) -> Answer:
        return replace(said, body=change(said.body), length=len(said.body) if claims_all else None)

    return answer


def half(body: bytes) -> bytes:
    return body[: len(body) // 2]


@at(*WEB)
@pytest.mark.parametrize(
    ("change", "times", "codes"),
    [
        (other_body(half, claims_all=True), 3, {0}),
        (other_body(lambda body: body[:-1000]), -1, {4, 5}),
        (other_body(lambda body: body + bytes(1000)), -1, {4, 5}),
    ],
    ids=["less than it claims", "shorter", "longer"],
)
def test_a_length_that_is_not_the_files_is_gone_on_with_or_refused(
    place: Place, change: object, times: int, codes: set[int]
) -> None:
    place.proxy.fault(place.weights, change=change, times=times)
    assert place.code(retries=1) in codes
    place.recovers()


@at(*CLIENTS)
@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("what", ["listing", "weights"])
def test_a_storm_is_waited_out_and_one_without_end_is_exit_4(place: Place, what: str, status: int) -> None:
    proxy = place.front if what == "listing" else place.proxy
    proxy.fault(getattr(place, what), status=status, times=-1)
    assert place.code() == 4
    place.mend()
    proxy.fault(getattr(place, what), status=status, times=2)
    assert place.code() == 0
    place.recovers()


@pytest.mark.parametrize(
    ("place", "status"),
    [("hub", 429), ("hub", 503), ("https", 429)],
    indirect=["place"],
)
def test_a_wish_to_wait_is_obeyed_and_one_that_is_too_long_ends_it(place: Place, status: int) -> None:
    place.front.fault(place.listing, status=status, headers={"Retry-After": "3600"}, times=-1)
    assert place.code() == 4
    assert len(place.asked(place.listing)) == 1
    place.mend()
    place.proxy.fault(place.weights, status=status, headers={"Retry-After": "1"}, times=2)
    assert place.code() == 0
    first, *_, second = [asked.at for asked in place.proxy.asked if re.search(place.weights, asked.line)]
    assert second - first >= 1.0
    place.recovers()


@at(*WEB)
@pytest.mark.parametrize("what", ["listing", "file"])
def test_what_is_forbidden_is_exit_3_and_not_asked_for_again(place: Place, what: str) -> None:
    forbidden = place.listing if what == "listing" else "GET .*(adapter.{1,3}model|blobs)"
    place.front.fault(forbidden, status=403, times=-1)
    assert place.code() == 3
    refused = place.asked(forbidden)
    assert len(refused) == len(set(refused)) > 0
    place.recovers()


@at(*CLIENTS)
def test_a_loop_of_redirects_is_left(place: Place) -> None:
    for proxy in {id(proxy): proxy for proxy in (place.front, place.proxy)}.values():
        proxy.fault("GET", status=302, headers={"Location": f"{proxy.url}/again"}, times=-1)
    assert place.code() == 4
    place.mend()
    for match in (place.weights, f"GET /{WEIGHTS}"):
        place.proxy.fault(match, status=302, headers={"Location": f"{place.proxy.url}/{WEIGHTS}"}, times=-1)
    assert place.code() == 4
    place.recovers()


@at("hub", "s3", "gs")
def test_a_listing_that_is_cut_in_the_midst_is_none(place: Place) -> None:
    place.front.fault(place.listing, change=other_body(half), times=-1)
    assert place.code() == 4
    place.recovers()


@at("s3", "gs")
def test_a_listing_that_never_ends_is_left(place: Place) -> None:
    # Nor does it end when nobody waits for it any more: let it not take all of the processor.
    place.front.fault(place.listing, change=place.endless, before=lambda: time.sleep(0.05), times=-1)
    began = time.monotonic()
    settings = replace(place.settings, timeout_s=2, retries=0, adapter_timeout_s=3)
    (outcome,) = fetch_all([Request("sql", place.ref)], Store(place.cache), settings)
    assert outcome.exit_code == 4
    assert time.monotonic() - began < 15
    assert len(place.asked(place.listing)) > 2
    place.recovers()


@at(*CLIENTS)
def test_a_body_that_trickles_ends_with_the_time_of_its_adapter(place: Place) -> None:
    place.proxy.fault(place.weights, drip_s=0.05, times=-1)
    began = time.monotonic()
    assert place.code(timeout_s=0.6, retries=0, adapter_timeout_s=2) == 4
    assert time.monotonic() - began < 10
    place.recovers()


@at(*WEB)
def test_what_is_overwritten_on_the_way_is_the_one_or_the_other(place: Place) -> None:
    place.proxy.fault(place.weights, cut_at=HALF, times=1)
    place.proxy.fault(place.weights, before=lambda: place.write(OTHERS), times=1)
    assert place.code() in {0, 5}
    place.recovers(files=OTHERS)


@at("sftp")
def test_over_ssh_a_connection_that_ends_is_made_again_and_what_changed_meanwhile_is_not_mixed(place: Place) -> None:
    place.proxy.fault("CONNECT", cut_at=HALF, times=1)
    assert place.code() == 0
    place.write(OTHERS)
    place.proxy.fault("CONNECT", cut_at=HALF, times=1)
    place.proxy.fault("CONNECT", before=lambda: place.write(FILES), times=1)
    assert place.bring().snapshot.files
    check_cache(place.cache, whole=True)
    place.recovers()


@at("s3fs")
def test_a_folder_that_cannot_be_listed_is_not_left_out(place: Place) -> None:
    place.write({"sub/x.json": b"{}"})
    place.proxy.fault("prefix=[^ ]*sub", status=403, times=-1)
    with pytest.raises(AccessDenied):
        place.source.resolve(place.ref)


@at("rclone")
def test_of_a_store_that_knows_no_ranges_a_large_file_is_one_stream(place: Place) -> None:
    place.write({**FILES, WEIGHTS: FILES[WEIGHTS] * 8})
    place.bring(jobs=8)
    whole = [line for line in place.asked("^GET") if "bytes=" not in line]
    assert sum(WEIGHTS in line for line in whole) <= 2
