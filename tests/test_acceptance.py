"""Which findings do not count, and what is said of a baseline and of suppressions."""

from lora_cli.documents.baseline import Baseline, load_baseline, render_baseline
from lora_cli.finding import Accepted
from lora_cli.judging.baseline import apply_baseline, entry_of, stale_entries
from tests.render.reports import checked, finding

HALF = finding("LC302", "half", "w", "q_proj")


def test_what_is_known_once_does_not_cover_it_a_second_time() -> None:
    one = checked("a", "file:///a", HALF, HALF, finding("LC302", "half", "w", "k_proj"))
    baseline = load_baseline(render_baseline([entry_of("a", HALF)]), "known.json")

    assert [bool(found.accepted) for found in apply_baseline(one, "a", baseline, "known.json").findings] == [
        True,
        False,
        False,
    ]
    assert apply_baseline(one, "b", baseline, "known.json") == one
    assert list(stale_entries([("a", one), ("b", one)], baseline, ["LC302"])) == []
    twice = Baseline("known.json", {"a": {entry_of("a", HALF): 3}})
    assert list(stale_entries([("a", one)], twice, ["LC302"])) == [
        "known.json: LC302 is no longer found in a (w: q_proj)"
    ]


def test_a_note_is_never_known_and_what_is_suppressed_stays_so() -> None:
    suppressed = finding("LC504", "large", accepted=Accepted("policy", "p.yaml:3", "meant so"))
    one = checked("a", "file:///a", HALF, suppressed, finding("LC605", "main"))
    findings = apply_baseline(one, "a", None, "known.json").findings

    assert [found.accepted and found.accepted.by for found in findings] == ["baseline", "policy", None]
