"""One row's answer as it grows: tokens to text, and where it ends."""

from collections.abc import Callable, Collection, Sequence

import torch

from lora_cli.runtime.messages import Piece, Row, TokenLogprob

Decode = Callable[[Sequence[int]], str]
INCOMPLETE = "\ufffd"
"""What stands at the end of a text while its last character has not all of its bytes yet."""


class Answering:
    """Holds one row between steps. ``decode`` is None where there is no tokenizer: its text is empty then.

    Text is told as soon as it can no longer change: a token may be the first byte of a character, or the beginning of
    what ``stop`` says. Tokens are decoded with those just before them, because some begin with a space only there.
    """

    def __init__(self, number: int, row: Row, decode: Decode | None, ends: Collection[int]) -> None:
        self.number, self.row, self.finish = number, row, ""
        self._decode = decode
        self._ends = frozenset() if row.ignore_eos else frozenset(ends)
        self._ids: list[int] = []
        self._before = self._read = 0
        self._held = ""
        self._longest = max(map(len, row.stop), default=1) - 1

    def take(self, token: int, logits: torch.Tensor) -> Piece:
        """The next token, with the logits ``[vocabulary]`` that it is of."""
        ids: tuple[int, ...] = ()
        if token in self._ends:
            self.finish = "stop"
        else:
            ids = (token,)
            self._ids.append(token)
            if len(self._ids) >= self.row.max_tokens:
                self.finish = "length"
        text = self._told()
        return Piece(self.number, ids, text, self._logprobs(token, logits) if ids else (), self.finish)

    def _told(self) -> str:
        """What can be told of the text now: not what ``stop`` cuts off, nor what may be the beginning of it."""
        self._held += self._grown(everything=bool(self.finish))
        found = [place for place in (self._held.find(stop) for stop in self.row.stop) if place >= 0]
        if found:
            self.finish, self._held = "stop", self._held[: min(found)]
        told = len(self._held) if self.finish else max(0, len(self._held) - self._longest)
        text, self._held = self._held[:told], self._held[told:]
        return text

    def _grown(self, *, everything: bool) -> str:
        """New text of the tokens so far; with ``everything`` what is incomplete too."""
        if self._decode is None:
            return ""
        before = self._decode(self._ids[self._before : self._read])
        text = self._decode(self._ids[self._before :])
        if not everything and (len(text) <= len(before) or text.endswith(INCOMPLETE)):
            return ""
        self._before, self._read = self._read, len(self._ids)
        return text[len(before) :]

    def _logprobs(self, token: int, logits: torch.Tensor) -> tuple[TokenLogprob, ...]:
        if self.row.logprobs is None:
            return ()
        logs = torch.log_softmax(logits, dim=-1)
        top = torch.topk(logs, self.row.logprobs) if self.row.logprobs else None
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True) if top is not None else ()
        return (TokenLogprob(self._named(token), float(logs[token]), {self._named(one): log for one, log in pairs}),)

    def _named(self, token: int) -> str:
        text = self._decode([token]) if self._decode is not None else ""
        return text if text and INCOMPLETE not in text else f"token_id:{token}"
