"""The way to a server: the proxies and the certificates that the environment names."""

import functools
import os
import ssl
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lora_cli.errors import UsageError
from lora_cli.redaction import remember

PORTS = {"http": 80, "https": 443}
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where distributions keep their certificates, for an OpenSSL that was built for another one."""


@dataclass(frozen=True, slots=True)
class Route:
    """The way to one server. ``proxy`` is the address of a proxy on it, ``authorization`` what that is told."""

    scheme: str
    host: str
    port: int
    proxy: tuple[str, int] | None = None
    authorization: str = field(default="", repr=False)


@functools.cache
def route_to(scheme: str, host: str, port: int) -> Route:
    """The way to a server that ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` demand.

    Raises:
        UsageError: what the environment names cannot be used.
    """
    certificates = os.environ.get("SSL_CERT_FILE")
    if certificates and not Path(certificates).is_file():
        raise _unusable("certificates", "check SSL_CERT_FILE")
    proxy = _proxy_for(scheme, host, port)
    if not proxy:
        return Route(scheme, host, port)
    hint = "check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY: a proxy is written http://HOST:PORT"
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        address = (parts.hostname or "", parts.port or 80)
    except ValueError as error:
        raise _unusable("proxy", hint) from error
    if parts.scheme == "https" and parts.hostname:
        hint = "name it as http://HOST:PORT: what goes through it to an https:// server is encrypted all the same"
        raise UsageError("a proxy that is itself spoken to over TLS (https://) cannot be used", hint=hint)
    if parts.scheme != "http" or not parts.hostname:
        raise _unusable("proxy", hint)
    return Route(scheme, host, port, address, _basic(parts.username, parts.password))


def _proxy_for(scheme: str, host: str, port: int) -> str:
    if sys.platform == "linux" and not any(name.lower().endswith("_proxy") for name in os.environ):
        return ""
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all") or ""
    return "" if proxy and proxy_bypass(f"{host}:{port}") else proxy


def _basic(user: str | None, password: str | None) -> str:
    """The ``Basic`` credentials of RFC 7617; nothing without a user."""
    if user is None:
        return ""
    from base64 import b64encode

    encoded = b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()
    for secret in (unquote(password or ""), encoded):
        remember(secret)
    return f"Basic {encoded}"


@functools.cache
def tls() -> ssl.SSLContext:
    """Which certificates are trusted: those of ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``, else those of this system.

    Raises:
        UsageError: they cannot be read.
    """
    file, folder = os.environ.get("SSL_CERT_FILE") or None, os.environ.get("SSL_CERT_DIR") or None
    try:
        context = _system_tls() if not file and not folder else ssl.create_default_context(cafile=file, capath=folder)
    except (OSError, ValueError) as error:
        raise _unusable("certificates", "check SSL_CERT_FILE and SSL_CERT_DIR") from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def _system_tls() -> ssl.SSLContext:
    if sys.platform == "darwin":
        import truststore

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"] and not _has_hashed_certificates():
        for bundle in filter(os.path.isfile, _BUNDLES):
            context.load_verify_locations(bundle)
            break
    return context


def _has_hashed_certificates() -> bool:
    """Whether OpenSSL's own folder has certificates: those are read one by one, when they are needed."""
    folder = ssl.get_default_verify_paths().capath
    return folder is not None and any(file.suffix == ".0" for file in Path(folder).iterdir())


def _unusable(what: str, hint: str) -> UsageError:
    return UsageError(f"the {what} that the environment names cannot be used", hint=hint)
