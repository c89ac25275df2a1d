"""Pulp's container registry on loopback: tokens of its own, blobs on another port, and manifests in PostgreSQL.

``make test-registries`` installs it. PostgreSQL is Debian's.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.oci_server import USER, Registry
from tests.processes import listens, running, started, stop

BIN = Path(__file__).parents[1] / ".venv-pulp/bin"


@contextmanager
def postgres() -> Iterator[Path]:
    """PostgreSQL for the role ``pulp``; the folder of its socket."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # the path of a socket has at most 107 characters
    user = pwd.getpwuid(os.geteuid() or pwd.getpwnam("nobody").pw_uid).pw_name  # it does not run as root
    shutil.chown(folder, user)
    data = folder / "data"
    try:
        subprocess.run([programs / "initdb", data, "-U", "pulp", "-N"], check=True, capture_output=True, user=user)
        command: list[str | Path] = [programs / "postgres", "-D", data, "-k", folder]
        command += ["-c", "listen_addresses=", "-c", "fsync=off"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, user=user)
        try:
            ready = [str(programs / "pg_isready"), "-q", "-h", str(folder)]
            assert started(process, str(folder), lambda _: subprocess.run(ready, check=False).returncode == 0)
            yield folder
        finally:
            stop(process)
    finally:
        shutil.rmtree(folder)


@contextmanager
def pulp(folder: Path) -> Iterator[Registry]:
    """The registry. Everybody may pull what is not private, and ``USER`` may push.

    Its store has ``content.log``, which says what was read of blobs.
    """
    with postgres() as socket:
        _write_settings(folder, socket)
        environ = {"PULP_SETTINGS": str(folder / "settings.py"), "DJANGO_SUPERUSER_PASSWORD": USER[1]}
        for words in ("migrate", f"createsuperuser --username {USER[0]} --email alice@registry.example"):
            command = [str(BIN / "pulpcore-manager"), *words.split(), "--noinput"]
            done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr

        def command_of(app: str, port: int, **settings: str) -> Sequence[str]:
            told = [f"PULP_{name}={value}" for name, value in settings.items()]
            options = f"--bind 127.0.0.1:{port} --workers 2 --timeout 0 --no-control-socket --access-logfile -"
            environ = ["env", f"PULP_SETTINGS={folder / 'settings.py'}", *told]
            return [*environ, str(BIN / f"pulpcore-{app}"), *options.split()]

        def api(port: int) -> Sequence[str]:
            return command_of("api", port, CONTENT_ORIGIN=content, TOKEN_SERVER=f"http://127.0.0.1:{port}/token/")

        with (
            running(lambda port: command_of("content", port), folder / "content.log", [0], listens) as content,
            running(api, folder / "api.log", [0]) as endpoint,
        ):
            yield Registry(endpoint.removeprefix("http://"), store=folder, realm=f"{endpoint}/token/")


def _write_settings(folder: Path, socket: Path) -> None:
    """``settings.py``, and the keys that it names."""
    from cryptography.fernet import Fernet
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "private.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    (folder / "public.pem").write_bytes(public)
    (folder / "database.key").write_bytes(Fernet.generate_key())
    for name in ("media", "tmp"):
        (folder / name).mkdir()
    database = {"ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "pulp", "HOST": str(socket)}
    settings = {
        "SECRET_KEY": "a secret of tests",
        "PASSWORD_HASHERS": ["django.contrib.auth.hashers.MD5PasswordHasher"],  # of others a token takes half a second
        "DATABASES": {"default": database},
        "DEPLOY_ROOT": str(folder),
        "MEDIA_ROOT": str(folder / "media"),
        "WORKING_DIRECTORY": str(folder / "tmp"),
        "FILE_UPLOAD_TEMP_DIR": str(folder / "tmp"),
        "DB_ENCRYPTION_KEY": str(folder / "database.key"),
        "TOKEN_SIGNATURE_ALGORITHM": "ES256",
        "PRIVATE_KEY_PATH": str(folder / "private.pem"),
        "PUBLIC_KEY_PATH": str(folder / "public.pem"),
        "ANALYTICS": False,
    }
    (folder / "settings.py").write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
