"""impacket's SMB server over one folder, as a process: ``python -m tests.smb_server FOLDER PORT``."""

import sys

from impacket import ntlm, smbserver

from tests.object_servers import ADMIN

SHARE = "LORAS"


def serve(folder: str, port: int) -> None:
    """Until it is stopped: SMB 2, in which ``ADMIN`` may read."""
    server = smbserver.SimpleSMBServer("127.0.0.1", port)
    server.addShare(SHARE, folder, "", readOnly="yes")
    server.setSMB2Support(True)
    name, password = ADMIN
    server.addCredential(name, 0, ntlm.compute_lmhash(password).hex(), ntlm.compute_nthash(password).hex())
    server.start()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
