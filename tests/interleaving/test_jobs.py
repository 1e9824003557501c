"""plan, generate and assemble with a look-up engine: codes are known, so every byte can be."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_speech.errors import DataError
from megatron_speech.interleaving import plan as plan_module
from megatron_speech.interleaving.assemble import assemble
from megatron_speech.interleaving.generate import generate
from megatron_speech.interleaving.plan import plan
from megatron_speech.interleaving.plan_folder import request_paths
from megatron_speech.interleaving.spans import SpanConfig
from megatron_speech.io.files import read_json
from megatron_speech.text.vocab import SpeechTextVocab
from tests.interleaving.jobs import (
    assemble_config,
    documents_of,
    files_of,
    generate_config,
    plan_config,
    run_jobs,
)
from tests.interleaving.samples import (
    INFO,
    LookUpEngine,
    look_up,
)


def test_every_span_leads_back_to_its_words(world, done):
    work, _ = done
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    table = pq.read_table(world / "corpus.parquet")
    texts = dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
    documents = documents_of(work / "out")
    rows = pq.read_table(work / "out.spans.parquet").to_pylist()
    position = {}
    for row in rows:
        tokens = np.array(documents[row["document"]][row["token_start"] : row["token_stop"]])
        source = row["source_id"].split("/")[0]
        words = texts[source][row["character_start"] : row["character_stop"]]
        if row["modality"] == "speech":
            assert vocab.tokens_to_codes(tokens).tolist() == look_up(words).tolist()
            assert row["generator_fingerprint"] == "look-up"
            assert row["request_shard"].endswith(".parquet")
            assert row["seed"] >= 0
            assert row["batch"] == 0
        else:
            # a space before a span is in the span's first token
            assert vocab.text.decode(tokens.tolist()).rstrip() == words.rstrip()
        # rows of a document leave no character out, and nothing but delimiters between tokens
        last_token, last_character = position.get(row["document"], (0, 0))
        assert row["character_start"] == last_character
        assert 0 <= row["token_start"] - last_token <= 2
        position[row["document"]] = row["token_stop"], row["character_stop"]
    assert len(position) == len(documents) == len(texts)
    for number, (name, text) in enumerate(texts.items()):
        assert position[number][1] == len(text), name
        assert documents[number][-1] == vocab.eod_id


def test_counts_add_up(world, done):
    work, facts = done
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    tokens = np.array([t for document in documents_of(work / "out") for t in document])
    assert facts["documents"] == 60
    assert facts["speech_tokens"] == vocab.is_speech(tokens).sum()
    assert facts["text_tokens"] + facts["speech_tokens"] == len(tokens)
    assert facts["speech_tokens"] == 3 * facts["spoken_words"]
    assert facts["tokenizer_fingerprint"] == INFO.tokenizer_fingerprint
    planned = read_json(work / "plan" / "plan.json")
    assert planned["requests"] == facts["spans"] + sum(facts["rejected"].values())
    assert facts["rejected"].keys() == {"no_end"}
    assert facts["not_speakable"] == planned["not_speakable"] > 0
    rejected = (work / "out.rejected.jsonl").read_text().splitlines()
    assert len(rejected) == facts["rejected"]["no_end"]
    assert 0.25 < facts["speech_word_fraction"] < 0.35


def test_a_rejected_span_stays_text(world, done):
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    table = pq.read_table(world / "corpus.parquet")
    document = documents_of(done[0] / "out")[3]
    assert '"doc-3/' in (done[0] / "out.rejected.jsonl").read_text()
    spans = pq.read_table(done[0] / "out.spans.parquet", filters=[("document", "==", 3)])
    assert set(spans["modality"].to_pylist()) == {"text"}
    assert document == [*vocab.text.encode(table["text"][3].as_py()), vocab.eod_id]


def test_two_workers_write_the_same_bytes(world, done, tmp_path):
    run_jobs(world, tmp_path, workers=2)
    ours, theirs = files_of(done[0]), files_of(tmp_path)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_task_count_and_order_do_not_change_documents(world, done, tmp_path):
    table = pq.read_table(world / "corpus.parquet")
    order = np.random.default_rng(0).permutation(table.num_rows)
    pq.write_table(table.take(order), tmp_path / "shuffled.parquet")
    inputs = (str(tmp_path / "shuffled.parquet"),)
    run_jobs(world, tmp_path, input=inputs, tasks=5, requests_per_shard=7)
    documents = documents_of(done[0] / "out")
    assert documents_of(tmp_path / "out") == [documents[number] for number in order]
    other = tmp_path / "other-seed"
    run_jobs(world, other, seed=1)
    assert documents_of(other / "out") != documents


def test_stopped_work_goes_on_to_the_same_bytes(world, done, tmp_path, monkeypatch):
    calls = []
    plan_batch = plan_module._plan_batch

    def stop_in_the_second_task(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plan_batch(*arguments)

    monkeypatch.setattr(plan_module, "_plan_batch", stop_in_the_second_task)
    with pytest.raises(KeyboardInterrupt):
        plan(plan_config(world, tmp_path / "plan"))
    with pytest.raises(DataError, match="no finished plan"):
        generate(generate_config(world, tmp_path), LookUpEngine())
    plan(plan_config(world, tmp_path / "plan"))
    assert len(calls) == 4, "the first task was kept"

    class Stopping(LookUpEngine):
        left = 2

        def generate(self, *arguments):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().generate(*arguments)

    with pytest.raises(KeyboardInterrupt):
        generate(generate_config(world, tmp_path), Stopping())
    with pytest.raises(DataError, match="is missing; run tools/build_dataset"):
        assemble(assemble_config(world, tmp_path))
    generate(generate_config(world, tmp_path), LookUpEngine())
    assemble(assemble_config(world, tmp_path))
    assert files_of(tmp_path) == files_of(done[0])


def test_machines_side_by_side_share_the_shards(world, done, tmp_path):
    plan(plan_config(world, tmp_path / "plan"))
    config = generate_config(world, tmp_path)
    for offset in range(2):
        part = dataclasses.replace(config, shard_offset=offset, shard_step=2)
        counts = generate(part, LookUpEngine())
    assert counts["shards_missing"] == 0
    assert files_of(tmp_path / "codes") == files_of(done[0] / "codes")


def test_sentence_spans_next_to_each_other_share_delimiters(world, tmp_path):
    spans = SpanConfig(unit="sentence", eta=1.0)
    facts = run_jobs(world, tmp_path, spans=spans)
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    document = documents_of(tmp_path / "out")[0]
    assert document.count(vocab.begin_of_audio_id) == document.count(vocab.end_of_audio_id) == 1
    assert facts["spans"] > facts["documents"]
    assert document[0] == vocab.begin_of_audio_id


def test_requests_hold_what_is_said(done):
    for path in request_paths(done[0] / "plan"):
        table = pq.read_table(path)
        assert 0 < table.num_rows <= 20
        for row in table.to_pylist():
            assert row["id"] == f"{row['document_id']}/{row['span']:03d}"
            assert row["text"] == " ".join(row["text"].split())
            assert any(c.isalnum() for c in row["text"])


def test_a_corpus_without_usable_text(world, tmp_path):
    pq.write_table(pa.table({"text": ["", None, "  "]}), tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="no usable document"):
        plan(plan_config(world, tmp_path / "p", input=(str(tmp_path / "empty.parquet"),)))
