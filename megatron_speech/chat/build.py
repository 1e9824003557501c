"""Dialogues to datasets: turns that can be spoken, codes for them, documents in every mode.

    <work>/settings.json, turns.parquet     the turns kept, in order
    <work>/rejected.jsonl                   what was left out, and why
    <work>/user/, <work>/assistant/         plan.json and request shards, as of interleaving
    <work>/user-codes/, .../                code shards that answer them (interleaving/generate.py)
    <output-prefix>-<mode>.bin, ...         the datasets

Stopped at any instant and run again, it goes on where it was. The two folders of requests are plans
to `build_dataset.py generate`, which can be run on other machines before; they hold no turn that
recordings hold.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import DataError
from ..interleaving.generate import GenerateConfig, generate
from ..interleaving.requests import RequestWriter
from ..io.files import atomic_path, fingerprint_of, read_json, read_json_object, write_json
from ..io.parquet import parquet_writer
from ..io.rejected import Rejected, write_rejected
from ..jobs.claims import exclusive
from ..jobs.folders import same_job
from ..jobs.progress import Progress
from ..jobs.randomness import document_keys, random_bits
from ..text.corpora import find_texts, fingerprint_inputs, split_inputs
from ..text.vocab import SpeechTextVocab
from ..text_to_token.engines import Engine
from .config import DialoguesConfig, mode_of
from .dialogues import Dialogue, read_records, speakable_dialogue, turn_id
from .documents import TurnCodes, assemble_dialogues
from .template import ChatTemplate

_AT_A_TIME = 1024
_VOICE_SEED_PURPOSE = 105
TURN_SCHEMA = pa.schema({"dialogue_id": pa.string(), "turns": pa.list_(pa.string())})


def build_dialogues(config: DialoguesConfig, engine: Engine | None = None) -> dict[str, Any]:
    """Run all of it; returns counts of each job and the facts of each dataset.

    `engine` replaces the text-to-token engine that the config names.

    Raises:
        DataError: no dialogues, none of them usable, damaged shards, or other codes than the
            vocabulary's.
        VocabularyError: a vocabulary without marks of turns or without codes.
        ConfigError: a mode that the template does not know, or a folder begun otherwise.
        InUseError: another process works there.
    """
    with exclusive(config.work_folder, inside=True), exclusive(config.output_prefix):
        vocab = SpeechTextVocab.from_pretrained(config.vocab)
        template = ChatTemplate(vocab, config.template)
        for mode in config.modes:
            template.require_mode(mode_of(mode))
        codes = {role: TurnCodes(paths, vocab) for role, paths in config.recordings.items()}
        counts = plan_dialogues(config, codes)
        generated = {}
        for role in config.generated_roles:
            plan = config.work_folder / role / "plan.json"
            if read_json_object(plan, request_shards=list)["request_shards"]:
                generation = _generation(config, role)
                generated[role] = generate(generation, engine)
                codes[role].read([generation.output])
        rates = [each.frame_rate_hz for each in codes.values() if each.frame_rate_hz]
        if rates:
            template = ChatTemplate(vocab, config.template, rates[0])
        datasets = assemble_dialogues(config, template, codes["user"], codes["assistant"])
        return {"dialogues": counts, "generation": generated, "datasets": datasets}


def _generation(config: DialoguesConfig, role: str) -> GenerateConfig:
    assert config.model is not None
    assert config.like is not None
    engine = config.engine
    if role == "assistant" and config.assistant_voices:
        engine = replace(engine, voices=config.assistant_voices)
    return GenerateConfig(
        plan=config.work_folder / role,
        model=config.model,
        like=config.like,
        output=config.work_folder / f"{role}-codes",
        workers=config.workers,
        engine=engine,
        gates=config.gates,
    )


def plan_dialogues(config: DialoguesConfig, recorded: Mapping[str, TurnCodes]) -> dict[str, Any]:
    """Write the turns and request shards of those not recorded; returns what `plan.json` counts."""
    work, paths = config.work_folder, find_texts(config.input)
    settings = {
        "inputs": fingerprint_inputs(paths),
        "turns": asdict(config.turns),
        "seed": config.seed,
        "requests_per_shard": config.requests_per_shard,
    }
    for role, codes in recorded.items():
        if codes.names:
            settings[f"{role}_codes"] = fingerprint_of(*sorted(codes.names))
    same_job(work / "settings.json", settings)
    if (work / "plan.json").exists():
        return read_json(work / "plan.json")
    pieces = [piece for share in split_inputs(paths, 1) for piece in share]
    counts, rejected = Counter(dialogues=0, turns=0), []
    shards = {
        role: RequestWriter(work / role / "requests", 0, config.requests_per_shard)
        for role in ("user", "assistant")
    }
    with (
        atomic_path(work / "turns.parquet") as temporary,
        parquet_writer(temporary, TURN_SCHEMA) as writer,
        Progress("read dialogues", unit="dialogues") as progress,
        shards["user"],
        shards["assistant"],
    ):
        found = _speakable(config, pieces, rejected)
        while batch := list(islice(found, _AT_A_TIME)):
            ids = [dialogue.id for dialogue in batch]
            turns = [list(dialogue.turns) for dialogue in batch]
            columns = {"dialogue_id": ids, "turns": turns}
            writer.write_table(pa.Table.from_pydict(columns, TURN_SCHEMA))
            for offset, role in enumerate(("user", "assistant")):
                rows = _requests(batch, offset, config.seed)
                shards[role].add([row for row in rows if row["id"] not in recorded[role].names])
            counts.update(dialogues=len(batch), turns=sum(map(len, turns)))
            progress.advance(len(batch))
    reasons = write_rejected(work / "rejected.jsonl", rejected)
    if not counts["dialogues"]:
        raise DataError(
            f"no dialogue in {', '.join(config.input)} can be spoken: {reasons or 'no records'}"
        )
    for role, writer_of in shards.items():
        write_json(work / role / "plan.json", {"request_shards": writer_of.names})
    write_json(work / "plan.json", {**counts, "rejected": reasons})
    return read_json(work / "plan.json")


def _speakable(
    config: DialoguesConfig, pieces: list[Any], rejected: list[Rejected]
) -> Iterator[Dialogue]:
    """Dialogues that are kept; the rest goes to `rejected`."""
    seen: set[str] = set()
    for record in read_records(pieces):
        if isinstance(record, Rejected):
            rejected.append(record)
            continue
        name, content = record
        if name in seen:  # codes are found by id
            rejected.append(Rejected(name, "duplicate_id"))
            continue
        seen.add(name)
        for found in speakable_dialogue(name, content, config.turns):
            if isinstance(found, Dialogue):
                yield found
            else:
                rejected.append(found)


def _requests(batch: list[Dialogue], offset: int, seed: int) -> list[dict[str, Any]]:
    keys = document_keys(seed, [dialogue.id for dialogue in batch])
    rows = []
    for key, dialogue in zip(keys, batch, strict=True):
        numbers = np.arange(offset, len(dialogue.turns), 2)
        bits = random_bits(np.repeat(key, len(numbers)), _VOICE_SEED_PURPOSE, numbers)
        for turn, drawn in zip(numbers.tolist(), bits, strict=True):
            rows.append(
                {
                    "id": turn_id(dialogue.id, turn),
                    "text": dialogue.turns[turn],
                    "document_id": dialogue.id,
                    "span": turn,
                    "seed": int(drawn >> np.uint64(1)),
                    "position": turn / len(dialogue.turns),
                    "content": "dialogue",
                }
            )
    return rows
