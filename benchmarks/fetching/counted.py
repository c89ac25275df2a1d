"""A TCP forwarder that counts what servers answer: what a run transfers, whatever it reads it with."""

import socket
import threading
from contextlib import suppress


class Counted:
    """A port before each of ``ports`` of 127.0.0.1; ``received`` is what came back from all of them, in bytes.

    ``as_host`` writes the server's own name into requests: fake-gcs-server answers to no other.
    """

    def __init__(self, ports: list[int], *, as_host: bool = False) -> None:
        self.received = 0
        self.as_host = as_host
        self.ports = [self._listen(port) for port in ports]

    def _listen(self, port: int) -> int:
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        mine: int = listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(listener, mine, port), daemon=True).start()
        return mine

    def _accept(self, listener: socket.socket, mine: int, port: int) -> None:
        names = [f"127.0.0.1:{number}".encode() for number in (mine, port)]
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(("127.0.0.1", port))
            for ends in ((near, far, names if self.as_host else []), (far, near, None)):
                threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, names: list[bytes] | None) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if names is None:
                    self.received += len(data)
                target.sendall(data.replace(names[0], names[1]) if names else data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
