"""The same faults at every remote source: after each the cache is sound, the exit code right, and a retry completes."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from lora_cli.errors import AccessDenied
from tests.faulty_proxy import Answer
from tests.fetching.desk import MIB
from tests.fetching.places import CLIENTS, WEB, Place

pytestmark = pytest.mark.slow

HALF = MIB * 3 // 2


def at(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("place", names, indirect=True)


def gone_after(place: Place, kind: str) -> None:
    """The weights break off in the midst, and from then on nothing comes at all."""
    place.proxy.fault(place.weights, times=1, **{kind: HALF})
    place.proxy.fault(place.weights, times=-1, **{kind: 0})


@at(*CLIENTS, "sftp")
def test_a_reset_at_every_nth_byte_only_costs_time(place: Place) -> None:
    place.proxy.fault(place.weights, reset_at=1_300_000, times=-1)
    assert place.code(retries=1) == 0
    assert len(place.starts()) >= 3
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


@pytest.mark.parametrize("times", [1, -1])
def test_a_wrong_bit_is_fetched_again_and_one_that_stays_wrong_never_gets_a_name(place: Place, times: int) -> None:
    place.proxy.fault(place.weights, flip_at=MIB // 2, times=times)
    # SSH has a checksum of its own over what it sends: there it is a connection that breaks.
    assert place.code() == (0 if times == 1 else 4 if place.proxy.raw else 5)
    place.recovers()


def resized(change: Callable[[bytes], bytes]) -> Callable[[Answer], Answer]:
    return lambda said: replace(said, body=change(said.body))


@at(*WEB)
@pytest.mark.parametrize(
    "change", [resized(lambda body: body[:-1000]), resized(lambda body: body + bytes(1000))], ids=["shorter", "longer"]
)
def test_a_length_that_is_not_the_files_is_refused(place: Place, change: Callable[[Answer], Answer]) -> None:
    place.proxy.fault(place.weights, change=change, times=-1)
    assert place.code(retries=1) in {4, 5}
    place.recovers()


@at(*CLIENTS)
@pytest.mark.parametrize("what", ["listing", "weights"])
def test_a_storm_is_waited_out_and_one_without_end_is_exit_4(place: Place, what: str) -> None:
    proxy = place.front if what == "listing" else place.proxy
    proxy.fault(getattr(place, what), status=503, times=-1)
    assert place.code() == 4
    proxy.mend()
    proxy.fault(getattr(place, what), status=503, times=2)
    assert place.code() == 0
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
def test_a_body_that_trickles_ends_with_the_time_of_its_adapter(place: Place) -> None:
    place.proxy.fault(place.weights, drip_s=0.05, times=-1)
    began = time.monotonic()
    assert place.code(timeout_s=0.6, retries=0, adapter_timeout_s=2) == 4
    assert time.monotonic() - began < 10
    place.recovers()


@at("s3fs")
def test_a_folder_that_cannot_be_listed_is_not_left_out(place: Place) -> None:
    place.write({"sub/x.json": b"{}"})
    place.proxy.fault("prefix=[^ ]*sub", status=403, times=-1)
    with pytest.raises(AccessDenied):
        place.source.resolve(place.ref)
