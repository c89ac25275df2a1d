"""What ``warm --endpoint`` says to machines."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

from lora_cli.endpoint.reconcile import Done, Replica
from lora_cli.render.json import document, error_fields


def render_endpoints(replicas: Sequence[Replica], refused: Sequence[Done]) -> str:
    """The document ``lora_cli/endpoints/1``: what was done on each server, and what none was asked for."""
    servers = [
        {
            "address": replica.address,
            "kind": replica.kind,
            "version": replica.version,
            "error": error_fields(replica.error),
            "adapters": [_done(one) for one in replica.done],
        }
        for replica in replicas
    ]
    return document("endpoints", {"servers": servers, "refused": [_done(one) for one in refused]})


def _done(one: Done) -> dict[str, Any]:
    return {
        "name": one.name,
        "action": one.action,
        "ms": one.ms,
        "effect": None
        if one.effect is None
        else {
            "proved": one.effect.proved,
            "how": one.effect.how,
            "shift": one.effect.shift if isfinite(one.effect.shift) else None,
            "noise": one.effect.noise if isfinite(one.effect.noise) else None,
        },
        "error": error_fields(one.error),
    }
