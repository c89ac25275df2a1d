"""The times of a server's steps, from the moments at which clients got tokens."""

import pytest

from lora_cli.bench.step_times import StepTimes, TokenTimes, measure_steps


def test_times_between_known_sizes_are_on_a_line_and_beyond_in_proportion() -> None:
    steps = StepTimes({16: 160.0, 1: 70.0, 2: 150.0})
    assert [steps.of(size) for size in (0, 1, 2, 9, 16, 32)] == [70, 70, 150, pytest.approx(155), 160, 320]
    assert StepTimes().of(5) == 0


def test_a_step_is_from_the_last_one_to_its_tokens() -> None:
    """Two requests: 0.2 s for each prompt, and steps of 0.1 s alone and 0.15 s for both, three times in a row."""
    requests = []
    for begin_s in (0.0, 10.0, 20.0):
        one = [begin_s + time_s for time_s in (0.2, 0.3, 0.65, 0.8)]
        two = [begin_s + time_s for time_s in (0.5, 0.651, 0.799, 0.9)]
        requests += [TokenTimes(begin_s, 16, one), TokenTimes(begin_s + 0.25, 16, two)]
    assert measure_steps(requests).ms == {
        1: pytest.approx(100, abs=2),
        2: pytest.approx(150, abs=2),
        16: pytest.approx(200, abs=2),
    }


def test_prompts_that_start_together_are_one_step_and_rare_sizes_are_left_out() -> None:
    requests = []
    for begin_s in (0.0, 10.0, 20.0, 30.0):
        requests += [TokenTimes(begin_s, prompt, [begin_s + 0.3, begin_s + 0.4]) for prompt in (5, 7)]
    requests.append(TokenTimes(40.0, 100, [41.0]))
    found = measure_steps(requests).ms
    assert sorted(found) == [2, 12]
    assert found[12] == pytest.approx(300)
    assert measure_steps([]).ms == {}


def test_only_the_most_frequent_sizes_are_kept() -> None:
    requests = [TokenTimes(10.0 * number, number // 4 + 1, [10.0 * number + 1]) for number in range(400)]
    requests += [TokenTimes(10.0 * number, 99, [10.0 * number + 1]) for number in range(400, 410)]
    found = measure_steps(requests).ms
    assert (len(found), 99 in found) == (64, True)
