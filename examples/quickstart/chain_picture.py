"""The chain as a picture: boxes for the stages, arrows for the files between them."""

from examples.quickstart.charts import rect, svg, text

_BOXES = {
    "world": (10, 116, 150, 72, "text"),
    "audio": (10, 22, 150, 72, "speech"),
    "tokenizer": (200, 22, 160, 72, "speech"),
    "text_to_token": (200, 210, 160, 72, "text"),
    "codes": (400, 22, 150, 72, "speech"),
    "interleave": (400, 116, 150, 72, ""),
    "pretrain": (590, 116, 160, 72, ""),
    "evaluate": (790, 116, 150, 72, ""),
}
_TITLES = {
    "world": "Text corpus",
    "audio": "Real speech",
    "tokenizer": "Speech tokenizer",
    "text_to_token": "Text-to-token",
    "codes": "Codes",
    "interleave": "Interleaving",
    "pretrain": "Pre-training",
    "evaluate": "Evaluation",
}
_ARROWS = [
    "M160 58 H194",  # audio -> tokenizer
    "M360 58 H394",  # tokenizer -> codes
    "M475 94 V110",  # codes -> interleave
    "M160 152 H394",  # text -> interleave
    "M280 94 V204",  # codes of real speech teach the text-to-token model
    "M85 188 V246 H194",  # text -> text-to-token
    "M360 246 H475 V194",  # text-to-token -> interleave
    "M550 152 H584",  # interleave -> pre-training
    "M750 152 H784",  # pre-training -> evaluation
    "M550 58 H670 V110",  # codes -> pre-training (speech and pairs)
]


def chain(captions: dict[str, tuple[str, str]]) -> str:
    """Draw the chain; `captions` gives two small lines for each box."""
    parts = [
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" class="head"/></marker></defs>'
    ]
    parts += [f'<path d="{path}" class="flow" marker-end="url(#tip)"/>' for path in _ARROWS]
    for name, (x, y, width, height, css) in _BOXES.items():
        parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="9" class="box {css}"/>'
        )
        parts.append(text(x + 12, y + 24, _TITLES[name], "title"))
        for number, caption in enumerate(captions.get(name, ())):
            parts.append(text(x + 12, y + 43 + 16 * number, caption, "tick"))
    parts += _mixed_cells(590, 212)
    return svg("".join(parts), 292, "From text and audio to an evaluated speech-text model", 950)


def _mixed_cells(x: int, y: int) -> list[str]:
    """A strip of text and speech cells: what the model reads."""
    pattern = "ttttsssssssttttttssssssstttttssss"
    cells = [
        rect(x + 10.6 * number, y, 9, 16, "cell-speech" if kind == "s" else "cell-text")
        for number, kind in enumerate(pattern)
    ]
    return [*cells, text(x, y + 36, "what the model reads: text and speech, one sequence", "tick")]
