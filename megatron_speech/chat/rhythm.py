"""Which kind of token may come next in an answer: the grammar that training documents follow.

The engine masks everything else, so that an answer is well formed whatever the model would like.
"""

from enum import IntEnum

from .template import Mode, TemplateConfig


class TokenKind(IntEnum):
    """What a token is to an answer."""

    TEXT = 0
    CODE = 1
    BEGIN = 2
    END = 3
    STOP = 4


Kinds = frozenset[TokenKind]
_TEXT, _CODE = frozenset({TokenKind.TEXT}), frozenset({TokenKind.CODE})
_STOP = frozenset({TokenKind.STOP})
_CODE_OR_STOP = frozenset({TokenKind.CODE, TokenKind.STOP})


class Rhythm:
    """Follows one answer from behind `ChatTemplate.answer_begin` to the token that ends it."""

    def __init__(self, mode: Mode, config: TemplateConfig):
        self._mode, self._config = mode, config
        self._in_text = mode != "direct"
        self._text = self._speech = 0  # tokens of the present block
        self._closed = False
        self._text_ended = False

    def allowed(self) -> Kinds:
        """Kinds of which the next token must be one; a single kind may have a single token."""
        if self._closed:
            return _STOP
        if self._mode == "streaming":
            return self._streaming()
        if self._in_text:
            if not self._text:
                return _TEXT
            return frozenset(
                {TokenKind.TEXT, TokenKind.STOP if self._mode == "text" else TokenKind.BEGIN}
            )
        return _CODE if not self._speech else frozenset({TokenKind.CODE, TokenKind.END})

    def _streaming(self) -> Kinds:
        if not self._in_text:
            return _CODE_OR_STOP if self._speech else _CODE
        if self._text:
            return frozenset({TokenKind.TEXT, TokenKind.CODE})
        # between blocks anything goes, at the very start only text
        return (
            frozenset({TokenKind.TEXT, TokenKind.CODE, TokenKind.STOP}) if self._speech else _TEXT
        )

    def accept(self, kind: TokenKind) -> None:
        """Go on by one token of an allowed kind."""
        if kind in (TokenKind.END, TokenKind.STOP):
            self._closed = True
        elif kind == TokenKind.BEGIN:
            self._in_text = False
        elif self._mode == "streaming":
            self._accept_streaming(kind)
        elif kind == TokenKind.TEXT:
            self._text += 1
        else:
            self._speech += 1

    def _accept_streaming(self, kind: TokenKind) -> None:
        if kind == TokenKind.TEXT:
            if not self._text:
                self._speech = 0
            self._text += 1
            self._in_text = self._text < self._config.text_block
            return
        if self._in_text:  # a code where text was due
            self._text_ended = True
            self._in_text, self._speech = False, 0
        self._speech += 1
        if not self._text_ended and self._speech == self._config.codes_in_block:
            self._in_text, self._text = True, 0
