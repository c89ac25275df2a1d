"""Files in Xet storage, read by hf_xet in processes of their own: its client has no time limit."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from lora_cli.errors import Corrupt, UsageError
from lora_cli.redaction import remember
from lora_cli.sources.http import AGAIN, Http, Piece, host, open_response, origin, redirect_guard, redirect_target
from lora_cli.sources.retries import Transient, enforce_min_throughput
from lora_cli.sources.xet_process import DATA, DONE, FAILED, LONGEST

PROCESSES = 2
"""How many files or ranges are read at once; hf_xet makes many requests for each."""

EXPIRY_MARGIN_S = 60
STOP_S = 2.0
ENVIRONMENT = re.compile(r"HOME|LANG|LC_.*|LD_LIBRARY_PATH|PATH|PYTHON.*|SSL_CERT_.*|TMPDIR|HF_XET_.*|.*_proxy", re.I)
"""The variables that a process inherits: no token and no other secret."""

HASH_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class XetAccess:
    """The endpoint of Xet storage, and the Hub's token for it; ``expires`` is in seconds since 1970."""

    endpoint: str
    token: str = field(repr=False)
    expires: int


class XetStorage:
    """Xet storage, as one Hub gives access to it.

    The Hub's own token goes to the Hub alone: a process gets the token for Xet storage and nothing else. What comes is
    not verified here. hf_xet follows the links that the storage gives it; only the storage's own address is checked.
    """

    def __init__(self, http: Http) -> None:
        """Starts no process yet."""
        self._http = http
        self._access: dict[str, XetAccess] = {}
        self._idle: list[_Process] = []
        self._slots = threading.BoundedSemaphore(PROCESSES)
        weakref.finalize(self, _close_all, self._idle)

    def read(self, route: str, xet_hash: str, piece: Piece, what: str) -> Iterator[bytes]:
        """The piece of the file with that hash, in chunks of at most 1 MiB; its size is known.

        ``route`` is the Hub's path that gives out tokens for it. A stream that breaks is resumed.

        Raises:
            StatusError: the Hub refuses a token.
            Corrupt: the server sent more bytes than requested.
            Refused: a policy or an address forbids the storage.
            UsageError: hf_xet is not installed.
            Unreachable: network or server, after the retries.
        """
        # Without an end hf_xet takes a file that the storage does not have for an empty one.
        end = piece.end or 0

        def read(position: int) -> Iterator[bytes]:
            access = self._access_to(route, what)
            asked = {"hash": xet_hash, "size": piece.size, "start": position, "stop": end}
            asked |= {"endpoint": access.endpoint, "token": access.token, "expires": access.expires}
            try:
                answer = self._answer(asked, self._http.timeout_s, host(access.endpoint), what)
                for chunk in enforce_min_throughput(answer, host(access.endpoint), self._http.timeout_s):
                    position += len(chunk)
                    yield chunk
            finally:
                # Of a token that has expired hf_xet says so, or nothing: then the stream ends early.
                if position < end:
                    self._access.pop(route, None)

        left = end - piece.start
        for chunk in self._http.retries.stream(what, host(self._http.endpoint), piece.start, end, read):
            if (left := left - len(chunk)) < 0:
                raise Corrupt(f"{what}: the server sent more bytes than requested", hint=AGAIN)
            yield chunk

    def hash_of(self, path: Path, what: str) -> str:
        """The Xet hash of a file on this disk.

        Raises:
            UsageError: hf_xet is not installed.
            Unreachable: hf_xet fails.
        """

        def ask() -> str:
            return b"".join(self._answer({"path": str(path)}, HASH_TIMEOUT_S, "hf_xet", what)).decode()

        return self._http.retries.call(what, ask)

    def _access_to(self, route: str, what: str) -> XetAccess:
        known = self._access.get(route)
        if known is None or known.expires < time.time() + EXPIRY_MARGIN_S:
            known = self._access[route] = self._http.retries.call(
                what, lambda: _ask_for_access(self._http, route, what)
            )
        return known

    def _answer(self, request: dict[str, Any], timeout_s: float, server: str, what: str) -> Iterator[bytes]:
        with self._process() as process:
            process.channel.send_bytes(json.dumps(request).encode())
            while True:
                if not process.channel.poll(timeout_s):
                    raise Transient(f"{server} sent no data for {timeout_s:g} s")
                message = process.channel.recv_bytes(LONGEST + 1)
                if message[:1] == DATA:
                    yield message[1:]
                elif message[:1] == DONE:
                    return
                elif message[:1] == FAILED:
                    raise _failure(message[1:].decode(), server, what)

    @contextmanager
    def _process(self) -> "Iterator[_Process]":
        """A process for one caller at a time; one whose answer was not read to its end is not used again."""
        with self._slots:
            process = self._idle_process() or _Process()
            try:
                yield process
            except (EOFError, OSError) as error:
                process.close()
                raise Transient("the process that reads Xet storage exited") from error
            except BaseException:
                process.close()
                raise
            self._idle.append(process)

    def _idle_process(self) -> "_Process | None":
        """One that this process has started: a fork must not speak to its parent's."""
        with suppress(IndexError):
            while True:
                if (process := self._idle.pop()).owner == os.getpid():
                    return process
        return None


class _Process:
    """A running ``xet_process``, which ends when its ``channel`` is closed."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.channel: Connection[bytes, bytes]
        self.channel, theirs = Pipe()
        script = Path(__file__).with_name("xet_process.py")
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own script
                [sys.executable, "-P", str(script), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if ENVIRONMENT.fullmatch(name)},
            )

    def close(self) -> None:
        """End it, at once if need be."""
        self.channel.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _close_all(processes: list[_Process]) -> None:
    while processes:
        processes.pop().close()


def _ask_for_access(http: Http, route: str, what: str) -> XetAccess:
    """Access to Xet storage, as the Hub grants it. Its address must pass the rules for redirects."""
    from lora_cli.sources.http_failures import NoConnection
    from lora_cli.sources.http_transport import proxy_for, resolve

    with closing(open_response(http, http.endpoint + route, {}, what)) as response:
        headers, url, peer = response.headers, response.url, response.peer
    token, expires = headers.get("X-Xet-Access-Token", ""), headers.get("X-Xet-Token-Expiration", "")
    address = headers.get("X-Xet-Cas-Url", "")
    forms = ((r"[!-~]{1,8192}", token), (r"\d{1,12}", expires), (r"https?://.+", address))
    if not all(re.fullmatch(form, value, re.ASCII) for form, value in forms):
        raise Transient(f"{host(url)} gives no access to Xet storage", hint="check HF_ENDPOINT")
    remember(token)
    endpoint = redirect_target(url, address, what)
    judge = redirect_guard(http, peer, url, endpoint, what)
    scheme, name, port = origin(endpoint)
    try:
        addresses = resolve(name, port) if proxy_for(scheme, name, port) is None else (name,)
    except NoConnection as error:
        raise Transient(f"cannot resolve the host name {name}") from error
    for ip in addresses:
        judge(ip)
    return XetAccess(endpoint.rstrip("/"), token, int(expires))


def _failure(name: str, server: str, what: str) -> Exception:
    """Translates an error of hf_xet; its own messages are not shown, since they may contain signed links."""
    if name == "ModuleNotFoundError":
        return UsageError(f"{what} is in Xet storage, and hf_xet is not installed", hint="run `pip install hf_xet`")
    return Transient(f"Xet storage at {server} failed ({name})")
