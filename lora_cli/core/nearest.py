"""The known word that was probably meant: what every "unknown key" error offers."""

from collections.abc import Iterable

LONGEST = 100


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The word of ``known`` closest to ``word``, or None when none is close.

    Case, ``-`` and ``_`` are worth nothing (``maxLoras`` is close to ``max_loras``); a prefix counts as close.
    """
    from difflib import SequenceMatcher

    if len(word) > LONGEST:
        return None
    plain = _plain(word)
    best, best_ratio = None, 0.0
    for candidate in sorted(known):
        other = _plain(candidate)
        ratio = SequenceMatcher(None, plain, other).ratio()
        if len(plain) >= 3 and (other.startswith(plain) or plain.startswith(other)):
            ratio = max(ratio, 0.7)
        if ratio > best_ratio:
            best, best_ratio = candidate, ratio
    return best if best_ratio >= 0.6 else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint: the nearest known word, else all of them."""
    words = sorted(known)
    close = nearest(word, words)
    return f"did you mean {close}?" if close else f"known here: {', '.join(words)}"


def _plain(word: str) -> str:
    return word.lower().replace("-", "").replace("_", "")
