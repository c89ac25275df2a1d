"""The known word that was probably meant: what every "unknown key" error offers."""

from collections.abc import Iterable

LONGEST = 100
MOST, SIMILAR = 40, 4
"""Words that a hint lists at most, and how many of more words."""


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
    """A hint: the nearest known word, else all of them; of many the most similar ones."""
    words = sorted(known)
    close = nearest(word, words)
    if close:
        return f"did you mean {close}?"
    if len(words) <= MOST:
        return f"known: {', '.join(words)}"
    from difflib import get_close_matches

    similar = get_close_matches(word[:LONGEST], words, SIMILAR, cutoff=0) if word else words[:SIMILAR]
    return f"the most similar are {', '.join(similar)}; there are {len(words) - len(similar)} more"


def _plain(word: str) -> str:
    return word.lower().replace("-", "").replace("_", "")
