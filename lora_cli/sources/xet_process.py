"""A process that reads Xet storage with hf_xet. ``sources.xet`` runs it as a script; it imports nothing of lora_cli."""

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

DATA, DONE, FAILED = b"d", b".", b"!"
"""The first byte of each message: bytes of the file, the end of the answer, the name of an error."""

LONGEST = 1 << 20
MEMORY = 16_000_000
CONFIG = {
    "client.retry_max_attempts": 1,  # retries are the parent's
    "telemetry.enabled": False,
    "reconstruction.download_buffer_size": MEMORY,
    "reconstruction.download_buffer_perfile_size": MEMORY,
    "reconstruction.download_buffer_limit": MEMORY,
}


def main() -> None:
    """Answer requests from the connection whose descriptor is the argument, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel: Connection[bytes, bytes] = Connection(int(sys.argv[1]))
    folder = tempfile.mkdtemp(prefix="lora-cli-xet-")
    os.environ |= {"HF_XET_CACHE": folder, "HF_XET_LOG_DEST": os.devnull}
    requests = SimpleQueue[bytes]()
    threading.Thread(target=_receive, args=(channel, requests, Path(folder)), daemon=True).start()
    session = None
    while True:
        request = json.loads(requests.get())
        try:
            import hf_xet

            if "path" in request:
                channel.send_bytes(DATA + hf_xet.hash_files([request["path"]])[0].hash.encode())
            else:
                session = session or hf_xet.XetSession(hf_xet.XetConfig().with_config(CONFIG))
                _send_file(session, request, channel)
            channel.send_bytes(DONE)
        except Exception as error:  # noqa: BLE001 - the parent tells it
            # Its text may hold signed links.
            channel.send_bytes(FAILED + type(error).__name__.encode())


def _receive(channel: "Connection[bytes, bytes]", requests: "SimpleQueue[bytes]", folder: Path) -> None:
    """Hand requests on; end the process when the connection closes, whatever hf_xet is waiting for."""
    try:
        while True:
            requests.put(channel.recv_bytes())
    except (EOFError, OSError):
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)


def _send_file(session: Any, request: dict[str, Any], channel: "Connection[bytes, bytes]") -> None:
    """Send bytes ``start`` to ``stop`` of the file with that Xet hash, in pieces of at most 1 MiB."""
    import hf_xet

    group = session.new_download_stream_group(
        endpoint=request["endpoint"], token=request["token"], token_expiry_unix_secs=request["expires"]
    )
    file = hf_xet.XetFileInfo(request["hash"], request["size"])
    for chunk in group.download_stream(file, start=request["start"], end=request["stop"]):
        for at in range(0, len(chunk), LONGEST):
            channel.send_bytes(DATA + chunk[at : at + LONGEST])


if __name__ == "__main__":
    main()
