"""sha256 of small texts, without ``hashlib``, which loads OpenSSL: the standard library's ``random`` does the same.

For files ``hashlib`` it is: OpenSSL's is several times as fast.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:
        from _sha256 import sha256  # Python 3.11
    except ImportError:
        try:
            from _sha2 import sha256  # Python 3.12 and later
        except ImportError:
            from hashlib import sha256

__all__ = ["sha256"]
