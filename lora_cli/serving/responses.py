"""Responses: errors as vLLM's error object, the status of adapters, and long lists."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal

from starlette.responses import JSONResponse, Response, StreamingResponse

from lora_cli.errors import ERRORS, LoraCliError
from lora_cli.results import LoadReport
from lora_cli.runtime.messages import TierContents
from lora_cli.serving.adapter_state import STATUS, AdapterState
from lora_cli.serving.status_report import AdapterStatus

MODEL_FIELDS = {"object": "model", "owned_by": "lora-cli"}


class Json(JSONResponse):
    """A JSON answer, of any text: half a surrogate pair, which UTF-8 does not have, becomes ``?``."""

    def render(self, content: Any) -> bytes:
        """The encoded body."""
        return json_bytes(content)


def json_bytes(value: object) -> bytes:
    """``value`` as JSON; a dataclass is its fields."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_fields)
    return text.encode("utf-8", "replace")


def _fields(value: Any) -> dict[str, object]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def error_body(message: str, status: int, kind: str, hint: str = "") -> dict[str, Any]:
    """An error as vLLM and OpenAI write it; the hint is part of the message, which is all that clients show."""
    text = f"{message} ({hint})" if hint else message
    return {"error": {"message": text, "type": kind, "param": None, "code": status}}


def error_response(error: LoraCliError) -> tuple[int, dict[str, Any]]:
    """The HTTP status of an error, and its body."""
    status, kind = STATUS.get(error.exit_code, (500, "InternalServerError"))
    return status, error_body(error.message, status, kind, error.hint)


def load_error(report: LoadReport) -> LoraCliError:
    """The error of a failed report, with the stage in front."""
    kind = ERRORS.get(report.exit_code, LoraCliError)
    where = f" at {report.stage}" if report.stage else ""
    return kind(f"{report.name} cannot be served: it failed{where}: {report.error}", hint=report.hint)


Tiers = Mapping[str, Literal["gpu", "cpu"]]
"""The tiers of loaded adapters, by key."""


def tiers_of(contents: TierContents | None) -> Tiers:
    """The tier of each loaded adapter by its key, computed once for all adapters of a response."""
    return {} if contents is None else {**dict.fromkeys(contents.cpu, "cpu"), **dict.fromkeys(contents.gpu, "gpu")}


def adapter_status(adapter: AdapterState, tiers: Tiers, *, proved: bool) -> AdapterStatus:
    """One adapter, as ``GET /v1/adapters`` lists it."""
    name, lora = adapter.item.name, adapter.lora
    report, failed = adapter.report or LoadReport(name), adapter.failure or LoadReport(name)
    worst = report.proof.worst.error if report.proof is not None and report.proof.worst is not None else None
    return AdapterStatus(
        name=name,
        source=str(adapter.item.source),
        digest=lora.digest if lora is not None else "",
        tier=tiers.get(lora.key, "disk") if lora is not None else "remote",
        pinned=adapter.item.pinned,
        rank=report.rank,
        bytes=report.bytes,
        applied=report.applied,
        requests=adapter.requests,
        last_used=adapter.last_used,
        proved=proved,
        worst_error=worst if worst is not None and math.isfinite(worst) else None,
        stage_ms=dict(report.stage_ms),
        error=failed.error,
        hint=failed.hint,
        stage=failed.stage,
        failures=adapter.failures,
        retry_in_s=round(adapter.retry_in_s, 3),
    )


PIECE_BYTES = 1 << 15
"""Bytes of one write: about a millisecond of work."""


def streamed_list(head: Mapping[str, Any], key: str, values: Iterable[object]) -> Response:
    """A JSON object with the fields of ``head``, and the list of ``values`` under ``key``, created as they are sent."""
    return StreamingResponse(_pieces(head, key, values), media_type="application/json")


async def _pieces(head: Mapping[str, Any], key: str, values: Iterable[object]) -> AsyncIterator[bytes]:
    piece = bytearray(json_bytes({**head, key: []})[:-2])
    for number, value in enumerate(values):
        piece += b"," * bool(number) + json_bytes(value)
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
            await asyncio.sleep(0)
    yield bytes(piece) + b"]}"
