"""What counts as a difference from the snapshot."""

from tests.recorded.snapshot import PARTS, differences, read, shown


def test_differences_are_told_by_field_and_those_of_lists_by_what_only_one_has() -> None:
    old = {"exit": 0, "stdout": {"adapters": [{"bytes": 1}]}, "files": ["a 1", "b 2"]}
    new = {"exit": 1, "stdout": {"adapters": [{"bytes": 2}]}, "files": ["b 2", "c 3"]}
    assert list(map(shown, differences(old, new))) == [
        "exit: 0 → 1",
        'files: "a 1" → <absent>',
        'files: <absent> → "c 3"',
        "stdout.adapters.0.bytes: 1 → 2",
    ]
    assert list(differences({"rules": ["a", "b"]}, {"rules": ["b", "a"]})) == [("rules", ["a", "b"], ["b", "a"])]


def test_the_last_digits_of_a_number_are_no_difference() -> None:
    assert not [*differences({"a": [0.1, 1e-15]}, {"a": [0.1 + 1e-12, 2e-15]})]
    assert [*differences({"a": 1.0}, {"a": 1.0000001})]


def test_each_case_is_there_once_and_has_a_result() -> None:
    cases = [case for part in PARTS for case in read(part)]
    assert len({case.id for case in cases}) == len(cases)
    assert not [case.id for case in cases if not case.result]
