"""``lora-cli warm --status`` and ``--stop``: what a server that runs holds, and its end."""

import time
from typing import TYPE_CHECKING

from lora_cli.cli.output import Format, colour, width
from lora_cli.errors import EndpointError

if TYPE_CHECKING:
    from lora_cli.endpoint.client import Endpoint

STOP_S = 30.0
POLL_S = 0.05


def show_status(endpoint: "Endpoint", output_format: Format) -> str:
    """What the server says of itself. Raises ``EndpointError``."""
    status = endpoint.get("/v1/status")
    if not isinstance(status, dict) or status.get("schema") != "lora_cli/status/1":
        raise EndpointError(f"{endpoint.address} is no lora-cli server", hint="--host, --port or --uds name another")
    if output_format is Format.JSON:
        from lora_cli.render.json import encoded

        return encoded(status)
    from lora_cli.render.terminal_warm import render_status

    return render_status(status, width(), colour=colour())


def stop_server(endpoint: "Endpoint") -> str:
    """End the server, and wait until it is gone. Raises ``EndpointError``."""
    endpoint.request("POST", "/v1/stop")
    until = time.monotonic() + STOP_S
    while endpoint.listens():
        if time.monotonic() > until:
            raise EndpointError(f"{endpoint.address} still answers after {STOP_S:g} s", hint="end its process")
        time.sleep(POLL_S)
    return f"stopped the server at {endpoint.address}\n"
