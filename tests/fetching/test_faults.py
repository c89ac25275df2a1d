"""The same faults at every remote source: after each the cache is sound, the exit code right, and a retry completes."""

import re
import time

import pytest

from tests.faulty_proxy import Answer
from tests.fetching.places import (
    CLIENTS,
    CONFIG,
    FILES,
    MIB,
    OTHERS,
    PLACES,
    WEB,
    WEIGHTS,
    Place,
    check_cache,
    place_of,
)

pytestmark = pytest.mark.slow

HALF = MIB * 3 // 2


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    """Each remote source."""
    return place_of(request)


@pytest.fixture(params=WEB)
def web(request: pytest.FixtureRequest) -> Place:
    """Each that speaks HTTP."""
    return place_of(request)


def gone_after(place: Place, kind: str) -> None:
    """The weights break off in the midst, and from then on nothing comes at all."""
    place.proxy.fault(place.weights, times=1, **{kind: HALF})
    place.proxy.fault(place.weights, times=-1, **{kind: 0})


@pytest.mark.parametrize("every", [300_000, 1_300_000])
def test_a_reset_at_every_nth_byte_only_costs_time(place: Place, every: int) -> None:
    if place.raw and every < MIB:
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
    assert place.code(timeout_s=1) == 4
    place.recovers(resumed=True)


@pytest.mark.parametrize("place", [*CLIENTS, "at_sftp"], indirect=True)
def test_a_server_that_falls_silent_is_exit_4_and_gone_on_with(place: Place) -> None:
    gone_after(place, "stall_at")
    began = time.monotonic()
    assert place.code(timeout_s=1.5, retries=0) == 4
    assert time.monotonic() - began < 15
    place.recovers(resumed=True)


def test_one_wrong_bit_is_noticed_and_fetched_again(place: Place) -> None:
    place.proxy.fault(place.weights, flip_at=HALF, times=1)
    assert place.code() == 0
    place.recovers()


def test_bits_that_stay_wrong_never_get_a_name(place: Place) -> None:
    place.proxy.fault(place.weights, flip_at=MIB // 2, times=-1)
    # SSH has a checksum of its own over what it sends: there it is a connection that breaks.
    assert place.code() == (4 if place.raw else 5)
    place.recovers()


def test_a_wrong_bit_in_what_an_earlier_run_left_is_found_by_the_next(web: Place) -> None:
    web.proxy.fault(web.weights, flip_at=MIB // 2, cut_at=HALF, times=1)
    web.proxy.fault(web.weights, reset_at=0, times=-1)
    assert web.code() == 4
    web.recovers()
    assert 0 in web.starts()


def shorter(answer: Answer) -> Answer:
    return Answer(answer.status, answer.headers, answer.body[:-1000])


def longer(answer: Answer) -> Answer:
    return Answer(answer.status, answer.headers, answer.body + bytes(1000))


def less_than_it_claims(answer: Answer) -> Answer:
    return Answer(answer.status, answer.headers, answer.body[: len(answer.body) // 2], len(answer.body))


def test_a_body_shorter_than_it_claims_is_gone_on_with(web: Place) -> None:
    web.proxy.fault(web.weights, change=less_than_it_claims, times=3)
    assert web.code(retries=1) == 0
    web.recovers()


@pytest.mark.parametrize("change", [shorter, longer])
def test_a_length_that_is_not_the_files_is_refused(web: Place, change: object) -> None:
    web.proxy.fault(web.weights, change=change, times=-1)
    assert web.code() in {4, 5}
    web.recovers()


STORMS = [("listing", 429), ("weights", 429), ("listing", 503), ("weights", 500)]
MORE_STORMS = [("listing", 500), ("weights", 503)]


@pytest.mark.parametrize("web", CLIENTS, indirect=True)
@pytest.mark.parametrize(
    ("what", "status"), [*STORMS, *(pytest.param(*storm, marks=pytest.mark.slow) for storm in MORE_STORMS)]
)
def test_a_storm_is_waited_out_and_one_without_end_is_exit_4(web: Place, what: str, status: int) -> None:
    proxy = web.front if what == "listing" else web.proxy
    proxy.fault(getattr(web, what), status=status, times=-1)
    assert web.code() == 4
    web.mend()
    proxy.fault(getattr(web, what), status=status, times=2)
    assert web.code() == 0
    web.recovers()


@pytest.mark.parametrize(
    ("place", "status"),
    [("at_hub", 429), ("at_hub", 503), ("at_https", 429)],
    indirect=["place"],
)
def test_a_wish_to_wait_is_obeyed_and_one_that_is_too_long_ends_it(place: Place, status: int) -> None:
    place.front.fault(place.listing, status=status, headers={"Retry-After": "3600"}, times=-1)
    assert place.code() == 4
    assert len([asked for asked in place.front.asked if re.search(place.listing, asked.line)]) == 1
    place.mend()
    place.proxy.fault(place.weights, status=status, headers={"Retry-After": "1"}, times=2)
    assert place.code() == 0
    first, *_, second = [asked.at for asked in place.proxy.asked if re.search(place.weights, asked.line)]
    assert second - first >= 1.0
    place.recovers()


@pytest.mark.parametrize("what", ["listing", "file"])
def test_what_is_forbidden_is_exit_3_and_not_asked_for_again(web: Place, what: str) -> None:
    forbidden = web.listing if what == "listing" else "GET .*(adapter.{1,3}model|blobs)"
    web.front.fault(forbidden, status=403, times=-1)
    assert web.code() == 3
    refused = [asked.line for asked in web.front.asked if re.search(forbidden, asked.line)]
    assert len(refused) == len(set(refused)) > 0
    web.recovers()


@pytest.mark.parametrize("web", CLIENTS, indirect=True)
def test_a_loop_of_redirects_is_left(web: Place) -> None:
    for proxy in {id(proxy): proxy for proxy in (web.front, web.proxy)}.values():
        proxy.fault("GET", status=302, headers={"Location": f"{proxy.url}/again"}, times=-1)
    assert web.code() == 4
    web.mend()
    web.proxy.fault(web.weights, status=302, headers={"Location": f"{web.proxy.url}/{WEIGHTS}"}, times=-1)
    web.proxy.fault(f"GET /{WEIGHTS}", status=302, headers={"Location": f"{web.proxy.url}/{WEIGHTS}"}, times=-1)
    assert web.code() == 4
    web.recovers()


@pytest.mark.parametrize("web", ["at_hub", "at_s3", "at_gs"], indirect=True)
def test_a_listing_that_is_cut_in_the_midst_is_none(web: Place) -> None:
    def half(answer: Answer) -> Answer:
        return Answer(answer.status, answer.headers, answer.body[: len(answer.body) // 2])

    web.front.fault(web.listing, change=half, times=-1)
    assert web.code() == 4
    web.recovers()


@pytest.mark.parametrize("web", ["at_hub", "at_s3", "at_gs"], indirect=True)
def test_a_listing_that_never_ends_is_left(web: Place) -> None:
    assert web.endless is not None
    # Nor does it end when nobody waits for it any more: let it not take all of the processor.
    web.front.fault(web.listing, change=web.endless, before=lambda: time.sleep(0.05), times=-1)
    began = time.monotonic()
    assert web.code(timeout_s=2, retries=0, adapter_timeout_s=10) in {1, 4}
    assert time.monotonic() - began < 15
    assert sum(bool(re.search(web.listing, asked.line)) for asked in web.front.asked) > 2
    web.recovers()


@pytest.mark.parametrize("web", CLIENTS, indirect=True)
def test_a_body_that_trickles_is_given_up(web: Place) -> None:
    web.proxy.fault(web.weights, drip_s=0.05, times=-1)
    began = time.monotonic()
    assert web.code(timeout_s=0.6, retries=0) == 4
    assert time.monotonic() - began < 10
    web.recovers()


@pytest.mark.parametrize("web", CLIENTS, indirect=True)
def test_a_head_that_trickles_is_given_up(web: Place) -> None:
    web.proxy.fault(web.weights, drip_s=0.2, drips_head=True, times=-1)
    began = time.monotonic()
    assert web.code(timeout_s=0.6, retries=0) == 4
    assert time.monotonic() - began < 10
    web.recovers()


def test_what_is_overwritten_on_the_way_is_the_one_or_the_other(web: Place) -> None:
    def overwrite() -> None:
        web.write(OTHERS)

    web.proxy.fault(web.weights, cut_at=HALF, times=1)
    web.proxy.fault(web.weights, before=overwrite, times=1)
    assert web.code() in {0, 5}
    web.recovers(files=OTHERS)


def test_over_ssh_a_connection_that_ends_is_made_again_and_what_changed_meanwhile_is_not_mixed(
    at_sftp: Place,
) -> None:
    at_sftp.write(FILES)
    at_sftp.proxy.fault("CONNECT", cut_at=HALF, times=1)
    assert at_sftp.code() == 0
    at_sftp.write(OTHERS)
    at_sftp.proxy.fault("CONNECT", cut_at=HALF, times=1)
    at_sftp.proxy.fault("CONNECT", before=lambda: at_sftp.write(FILES), times=1)
    assert at_sftp.bring().snapshot.files
    check_cache(at_sftp.cache, whole=True)
    at_sftp.recovers()


def test_the_config_is_held_to_the_same(web: Place) -> None:
    web.proxy.fault("GET .*adapter.{1,3}config.{1,3}json (?!bytes=0-0$)", flip_at=3, times=1)
    web.front.fault("GET .*adapter.{1,3}config.{1,3}json (?!bytes=0-0$)", flip_at=3, times=1)
    assert web.code() == 0
    web.recovers()
    assert FILES[CONFIG] in {path.read_bytes() for path in (web.cache / "blobs").rglob("*") if path.is_file()}


def test_of_a_store_that_knows_no_ranges_a_large_file_is_one_stream(at_rclone: Place) -> None:
    at_rclone.write({**FILES, WEIGHTS: FILES[WEIGHTS] * 8})
    at_rclone.bring(jobs=8)
    whole = [asked for asked in at_rclone.proxy.asked if asked.line.startswith("GET") and "bytes=" not in asked.line]
    assert sum(WEIGHTS in asked.line for asked in whole) <= 2
