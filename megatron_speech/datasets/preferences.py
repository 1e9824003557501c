"""Best of n to pairs for DPO: what was kept of a text and a worse sample of it, as one document."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from ..data.code_shards import CodeRecord, find_shards, read_code_shard, read_shard_info
from ..data.indexed import DatasetFacts, IndexedWriter
from ..data.preferences import REFERENCE_SCHEMA, REFERENCE_SUFFIX
from ..data.templates import tts_document, voiced_text
from ..errors import DataError, VocabularyError
from ..io.files import find_in, fingerprint_of_files
from ..jobs.claims import exclusive
from ..jobs.progress import track
from ..text.vocab import SpeechTextVocab
from ..text_to_token.reference import Reference
from ..training.devices import require_device


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """What was kept and what is to be avoided, to train a text-to-token model by DPO."""

    codes: Path
    """Output of generate with --best-of, whose folder losers has the other answers."""
    vocab: Path
    """Vocabulary folder."""
    model: Path
    """Exported model that training will start from: the reference."""
    output_prefix: Path
    """Files are <output-prefix>.bin, .idx, .json, .reference.parquet."""
    tags: tuple[Literal["speaker"], ...] = ()
    """speaker: begin the text with the voice, for a model that was given --voices."""
    device: str = "auto"
    """auto (cuda if there is one), cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        require_device(self.device)


def build_preference(config: PreferenceConfig) -> DatasetFacts:
    """One document of each pair, in the order of the shards.

    Raises:
        DataError: no shards, none with pairs, or damaged ones.
        VocabularyError: the shards' codebook is not the vocabulary's.
        CheckpointError: the folder holds no model.
        InUseError: another process makes the dataset.
    """
    vocab, shards = SpeechTextVocab.from_pretrained(config.vocab), find_shards(config.codes)
    info = read_shard_info(shards[0])
    vocab.require_speech_tokenizer(info.tokenizer_fingerprint, str(config.codes), str(config.vocab))
    if info.num_codes != vocab.num_codes:
        raise VocabularyError(
            f"{config.codes} has codes of a codebook of {info.num_codes}, the vocabulary "
            f"{config.vocab} {vocab.num_codes}; give the vocabulary of the model that made them"
        )
    reference = Reference(config.model, vocab, config.device)
    with exclusive(config.output_prefix):
        with IndexedWriter(config.output_prefix, vocab) as writer:
            beside = writer.companion(REFERENCE_SUFFIX, REFERENCE_SCHEMA)
            for path in track(shards, f"build {config.output_prefix.name}", unit="shards"):
                names, answers = _pairs(path, vocab, config)
                likely = reference.log_probabilities([ids for pair in answers for ids in pair])
                columns = [pa.array(likely[side::2].astype(np.float32)) for side in (0, 1)]
                writer.add_documents([np.concatenate(pair) for pair in answers], names)
                beside.write_table(pa.table(columns, REFERENCE_SCHEMA))
            if not writer.documents:
                raise DataError(
                    f"{config.codes / 'losers'} holds no pairs; generate with a higher --best-of "
                    "or a smaller --pair-margin"
                )
        model = fingerprint_of_files(*find_in(config.model, "*.safetensors"))
        extra = {"reference": model}
        return writer.write_facts("preference", info.tokenizer_fingerprint, extra)


def _pairs(
    path: Path, vocab: SpeechTextVocab, config: PreferenceConfig
) -> tuple[list[str], list[tuple[np.ndarray, np.ndarray]]]:
    """Ids of the texts of a shard that have a worse answer, and their better and worse document."""
    worse = read_code_shard(path.parent / "losers" / path.name)[1]
    kept = {record.id: record for record in read_code_shard(path)[1]}
    if missing := [record.id for record in worse if record.id not in kept]:
        raise DataError(
            f"{path} lacks {missing[0]!r}, of which there is a loser; generate it again"
        )

    def document(record: CodeRecord) -> np.ndarray:
        voice = record.speaker if config.tags else None
        ids = vocab.text.encode(voiced_text((record.text or "").strip(), voice))
        return tts_document(vocab, ids, record.codes)

    pairs = [(document(kept[record.id]), document(record)) for record in worse]
    return [record.id for record in worse], pairs
