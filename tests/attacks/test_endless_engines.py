"""What answers in an engine's place, and says what no engine says."""

import pytest

from lora_cli.endpoint.address import parse_address
from lora_cli.endpoint.client import Endpoint
from lora_cli.endpoint.servers import SERVERS
from lora_cli.errors import EndpointError
from tests.answering import answering

HUGE = "1" + "0" * 400


@pytest.mark.parametrize(
    "logprobs",
    ['{"tokens": 5}', '{"token_logprobs": 5}', f'{{"token_logprobs": [-{HUGE}]}}', '{"token_logprobs": ["x"]}'],
)
def test_a_completion_that_is_none_is_one_error(logprobs: str) -> None:
    said = f'{{"choices": [{{"text": "a", "logprobs": {logprobs}}}]}}'.encode()
    with answering(lambda _: (200, said, {})) as url:
        endpoint = Endpoint(parse_address(url))
        server = SERVERS["vllm"](endpoint)
        with pytest.raises(EndpointError, match="/v1/completions"):
            server.complete("base", "x", 1)
