"""What is concluded from an engine's answers; the engines themselves are asked by ``make test-engines``."""

import json

import numpy as np
import pytest

from tests.real_engines.agreement import Predicted, disagreements, holds, report
from tests.real_engines.effects import Observed, Seen, log_softmax, served
from tests.real_engines.vllm_server import Reply, log_probabilities

PLAIN = log_softmax(np.zeros((2, 3)))
MEANT = log_softmax(np.array([[1.0, 0, 0], [0, 2.0, 0]]))


@pytest.mark.parametrize(
    ("answered", "meant", "outcome"),
    [
        (MEANT + 1e-5, MEANT, Observed.OK),
        (MEANT + 1e-2, MEANT, Observed.SERVES_WRONG),
        (PLAIN, MEANT, Observed.SERVES_WRONG),
        (MEANT * np.nan, MEANT, Observed.SERVES_WRONG),
        (MEANT, None, Observed.SERVES_WRONG),
    ],
)
def test_an_answer_is_right_within_what_the_order_of_sums_explains(
    answered: object, meant: object, outcome: Observed
) -> None:
    assert served("sql", answered, meant, PLAIN).observed is outcome


def test_log_probabilities_are_read_in_the_order_of_the_prompts_and_what_is_not_given_is_no_number() -> None:
    given = [(1, {"token_id:0": -1.0, "token_id:2": -2.0}), (0, {"token_id:1": -3.0})]
    choices = [{"index": index, "logprobs": {"top_logprobs": [top]}} for index, top in given]

    read = log_probabilities(Reply(200, json.dumps({"choices": choices})), 3)

    np.testing.assert_array_equal(read, [[np.nan, -3, np.nan], [-1, np.nan, -2]])


def test_enough_agree_only_if_each_difference_is_explained() -> None:
    seen = [Seen(str(number), Observed.OK) for number in range(100)]
    said = {one.name: Predicted(Observed.OK, "") for one in seen}
    two = {**said, **{str(number): Predicted(Observed.REJECTS, "DoRA") for number in range(2)}}
    three = {**two, "2": Predicted(Observed.CRASHES, "")}
    known = dict.fromkeys(three, "so it is")

    assert disagreements(said, seen) == {}
    assert holds("vllm", seen, disagreements(two, seen), known)
    assert not holds("peft", seen, disagreements(two, seen), known)
    assert not holds("vllm", seen, disagreements(two, seen), {"0": "so it is"})
    assert not holds("vllm", seen, disagreements(three, seen), known)
    assert "NOT EXPLAINED" in report("vLLM", seen, disagreements(two, seen), {})
