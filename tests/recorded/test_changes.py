"""The list of deliberate changes is one that can be read and trusted."""

from tests.recorded.compare import changes, differences, recorded, unexplained


def test_every_entry_is_complete_and_of_cases_that_there_are() -> None:
    known = recorded()
    for entry in changes():
        assert entry.keys() == {"cases", "field", "old", "new", "reason"}
        assert entry["cases"], entry
        assert set(entry["cases"]) <= known.keys()
        assert len(entry["reason"]) > 20, "say why, in a sentence"


def test_a_difference_needs_its_entry_and_an_entry_its_difference() -> None:
    old = {"exit": 0, "stdout": {"adapters": [{"bytes": 1}]}, "files": ["a 1", "b 2"]}
    new = {"exit": 1, "stdout": {"adapters": [{"bytes": 2}]}, "files": ["b 2", "c 3"]}
    found = list(differences(old, new))
    assert found == [
        ("exit", 0, 1),
        ("files", "a 1", "<absent>"),
        ("files", "<absent>", "c 3"),
        ("stdout.adapters.0.bytes", 1, 2),
    ]
    entries = [
        {"cases": ["one"], "field": field, "old": old, "new": new, "reason": "because"} for field, old, new in found
    ]
    assert unexplained("one", found, entries) == []
    assert len(unexplained("one", found, entries[1:])) == 1
    assert len(unexplained("one", found[1:], entries)) == 1
    assert len(unexplained("two", found, entries)) == 4


def test_a_new_profile_of_an_engine_is_one_difference_wherever_it_stands() -> None:
    profiles = [{"name": "vllm", "version": version, "features": ["dora"]} for version in ("0.31", "0.32", "0.33")]
    found = list(differences({"stdout": {"engines": profiles[::2]}}, {"stdout": {"engines": profiles}}))

    assert found == [("stdout.engines", "<absent>", profiles[1])]


def test_there_are_as_many_cases_as_there_were() -> None:
    assert len(recorded()) >= 400
