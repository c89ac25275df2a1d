"""A certificate authority and what it vouches for, made on the spot by openssl."""

import subprocess
from pathlib import Path

NEW = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-batch")


def localhost_certificate(folder: Path) -> tuple[Path, Path]:
    """The authority's certificate, and the chain with key of a server that is called localhost."""
    for name, options in (
        ("authority", "-subj /CN=authority -addext keyUsage=critical,keyCertSign"),
        ("localhost", "-subj /CN=localhost -addext subjectAltName=DNS:localhost -addext basicConstraints=CA:FALSE"),
    ):
        signed = ["-CA", "authority.pem", "-CAkey", "authority.key"] if name == "localhost" else []
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run([*NEW, *options.split(), *signed, *files], check=True, capture_output=True, cwd=folder)
    with (folder / "localhost.pem").open("ab") as chain:
        chain.write((folder / "localhost.key").read_bytes())
    return folder / "authority.pem", folder / "localhost.pem"
