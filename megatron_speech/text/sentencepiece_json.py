"""A SentencePiece model as a tokenizer of the tokenizers library, with the same ids. No torch."""

from pathlib import Path
from typing import Any

from ..errors import VocabularyError

_SPACE = "\u2581"
_UNIGRAM, _BPE = 1, 2
_CONTROL = 3


def convert(path: Path) -> Any:
    """Build a `tokenizers.Tokenizer` from a BPE or unigram `.model` file.

    Raises:
        VocabularyError: another kind of model, or one that marks spaces after words.
    """
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken, Tokenizer

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(path.read_bytes())
    if proto.trainer_spec.treat_whitespace_as_suffix:
        raise VocabularyError(f"{path} marks spaces as suffixes, which is not supported")
    tokenizer = Tokenizer(_model(path, proto))
    tokenizer.normalizer = _normalizer(proto.normalizer_spec)
    tokenizer.decoder = _decoder(proto.normalizer_spec)
    control = [piece.piece for piece in proto.pieces if piece.type == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    return tokenizer


def _model(path: Path, proto: Any) -> Any:
    from tokenizers import models

    kind, spec = proto.trainer_spec.model_type, proto.trainer_spec
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    if kind == _UNIGRAM:
        return models.Unigram(pieces, unk_id=spec.unk_id, byte_fallback=spec.byte_fallback)
    if kind == _BPE:
        return models.BPE(
            {piece: number for number, (piece, _) in enumerate(pieces)},
            _merges(pieces),
            unk_token=pieces[spec.unk_id][0],
            fuse_unk=True,
            byte_fallback=spec.byte_fallback,
        )
    raise VocabularyError(f"{path} is neither a BPE nor a unigram model (kind {kind})")


def _merges(pieces: list[tuple[str, float]]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others; SentencePiece prefers high scores."""
    rank = {piece: (-score, number) for number, (piece, score) in enumerate(pieces)}
    found = []
    for piece, _ in pieces:
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in rank and right in rank:
                found.append((rank[piece], rank[left], rank[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _normalizer(spec: Any) -> Any:
    from tokenizers import Regex, normalizers

    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    steps.append(normalizers.Replace(" ", _SPACE))
    return normalizers.Sequence(steps)


def _decoder(spec: Any) -> Any:
    from tokenizers import decoders

    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if spec.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)
