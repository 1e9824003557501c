"""Merged datasets are their parts; verified ones are what was written, to the byte."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_speech.data.indexed import IndexedWriter
from megatron_speech.data.mixture import read_holding
from megatron_speech.data.soundness import file_checksum
from megatron_speech.datasets.speech import SpeechConfig, build_speech
from megatron_speech.datasets.text import PreprocessConfig, preprocess
from megatron_speech.datasets.verify import verify
from megatron_speech.errors import ConfigError, DataError, VocabularyError
from megatron_speech.interleaving.provenance import SPAN_SCHEMA
from megatron_speech.io.checked_json import read_checked_json, write_checked_json
from megatron_speech.text.vocab import SpeechTextVocab
from tests.interleaving.jobs import documents_of
from tests.interleaving.samples import INFO, make_vocab, write_codes, write_corpus
from tools import merge_datasets, verify_dataset

SUFFIXES = (".bin", ".idx", ".json", ".spans.parquet")


def copy(source: Path, target: Path) -> Path:
    for suffix in (*SUFFIXES, ".sources.parquet"):
        if Path(f"{source}{suffix}").exists():
            shutil.copy(f"{source}{suffix}", f"{target}{suffix}")
    return target


def run_verify(world, *prefixes):
    return verify_dataset.main([*map(str, prefixes), "--vocab", str(world / "vocab")])


def run_merge(world, output, *inputs):
    flags = ["--vocab", str(world / "vocab"), "--output-prefix", str(output)]
    return merge_datasets.main(["--input", *map(str, inputs), *flags])


def text_dataset(world, folder: Path, seed: int = 0, ends: bool = True) -> Path:
    write_corpus(folder / f"{seed}.parquet", 12, seed)
    config = PreprocessConfig(
        input=(str(folder / f"{seed}.parquet"),),
        output_prefix=folder / f"text{seed}",
        tokenizer_model=world / "vocab",
        append_eod=ends,
    )
    return preprocess(config)[0].prefix


def test_merged_interleaved_datasets_keep_documents_and_provenance(world, done, tmp_path):
    first, second = done[0] / "out", copy(done[0] / "out", tmp_path / "b")
    facts = run_merge(world, tmp_path / "both", first, second)
    assert facts.documents == 120
    assert documents_of(tmp_path / "both") == 2 * documents_of(first)
    rows = pq.read_table(first.with_suffix(".spans.parquet")).to_pylist()
    merged = pq.read_table(tmp_path / "both.spans.parquet").to_pylist()
    moved = [{**row, "document": row["document"] + 60} for row in rows]
    assert merged == [*rows, *moved]
    [result] = run_verify(world, tmp_path / "both")
    assert result.documents == 120
    assert result.spans == len(merged)


def test_merged_text_names_its_sources_and_a_folder_stands_for_its_datasets(world, tmp_path):
    prefixes = [text_dataset(world, tmp_path, seed) for seed in (0, 1)]
    (tmp_path / "parts").mkdir()
    for prefix in prefixes:
        copy(prefix, tmp_path / "parts" / prefix.name)
    run_merge(world, tmp_path / "all", tmp_path / "parts")
    names = pq.read_table(tmp_path / "all.sources.parquet")["source_id"].to_pylist()
    assert names == 2 * [f"doc-{number}" for number in range(12)]
    assert documents_of(tmp_path / "all") == documents_of(prefixes[0]) + documents_of(prefixes[1])
    run_verify(world, tmp_path / "all")
    assert json.loads((tmp_path / "all.json").read_text())["merged_documents"] == {
        str(tmp_path / "parts" / prefix.name): 12 for prefix in prefixes
    }


def test_datasets_whose_json_was_written_by_hand_are_merged_by_its_rules(world, tmp_path):
    """It may say loss rule, packing and vocabulary alone, and other rules than those of a kind."""
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    prefixes = [text_dataset(world, tmp_path, seed) for seed in (0, 1)]
    by_hand = {
        "loss_rule": "text_only", "packing": "whole", "vocab_fingerprint": vocab.fingerprint
    }  # fmt: skip
    for prefix in prefixes:
        Path(f"{prefix}.json").write_text(json.dumps(by_hand))
    with pytest.raises(
        DataError, match=r"does not count the [\d,]+ tokens .*text0_text_document:\d+text"
    ):
        read_holding(str(prefixes[0]), 64)
    for kind in ({}, {"kind": "text"}, {"kind": "of ours"}):
        for prefix in prefixes:
            Path(f"{prefix}.json").write_text(json.dumps(by_hand | kind))
        output = tmp_path / f"both{len(str(kind))}"
        facts = run_merge(world, output, *prefixes)
        assert (facts.loss_rule, facts.packing) == ("text_only", "whole")
        assert facts.kind == kind.get("kind", "")
        assert documents_of(output) == documents_of(prefixes[0]) + documents_of(prefixes[1])
        said = json.loads(Path(f"{output}.json").read_text())["merged_documents"]
        assert said == {str(prefix): 12 for prefix in prefixes}


def test_what_does_not_belong_together_is_not_merged(world, done, tmp_path):
    text = text_dataset(world, tmp_path)
    with pytest.raises(DataError, match=r"has kind 'text', .* has 'interleaved'"):
        run_merge(world, tmp_path / "x", done[0] / "out", text)
    with pytest.raises(ConfigError, match="also an input"):
        run_merge(world, text, text)
    with pytest.raises(DataError, match="holds no datasets"):
        run_merge(world, tmp_path / "x", world / "like")
    speech = []
    for name in ("tok-a", "tok-b"):
        info = type(INFO)(frame_rate_hz=12.5, num_codes=64, tokenizer_fingerprint=name)
        write_codes(tmp_path / name / "a.parquet", info=info)
        config = SpeechConfig(
            codes=(tmp_path / name,), vocab=world / "vocab", output_prefix=tmp_path / name / "out"
        )
        build_speech(config)
        speech.append(config.output_prefix)
    with pytest.raises(DataError, match="different speech tokenizers"):
        run_merge(world, tmp_path / "x", *speech)
    make_vocab(tmp_path / "other", size=300)
    flags = ["--vocab", str(tmp_path / "other" / "vocab"), "--output-prefix", str(tmp_path / "x")]
    with pytest.raises(VocabularyError, match="was made with vocabulary"):
        merge_datasets.main(["--input", str(text), *flags])
    assert not list(tmp_path.glob("x.*"))


def test_a_good_dataset_of_every_kind_is_good(world, done, tmp_path):
    write_codes(tmp_path / "codes" / "a.parquet")
    config = SpeechConfig(
        codes=(tmp_path / "codes",), vocab=world / "vocab", output_prefix=tmp_path / "speech"
    )
    build_speech(config)
    text = text_dataset(world, tmp_path)
    results = run_verify(world, done[0] / "out", text, tmp_path / "speech")
    assert [result.documents for result in results] == [60, 12, 12]
    assert results[0].speech_tokens == done[1]["speech_tokens"]


def test_any_flipped_byte_is_found(world, done, tmp_path):
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    prefix = copy(done[0] / "out", tmp_path / "out")
    assert not verify(prefix, vocab).problems
    random = np.random.default_rng(0)
    for suffix in (".bin", ".idx", ".spans.parquet"):
        path = Path(f"{prefix}{suffix}")
        good = path.read_bytes()
        places = {0, 9, 17, 20, len(good) - 1, *random.integers(0, len(good), 12).tolist()}
        for place in sorted(places):
            bad = bytearray(good)
            bad[place] ^= 1 << int(random.integers(8))
            path.write_bytes(bad)
            assert verify(prefix, vocab).problems, (suffix, place)
        path.write_bytes(good)
    assert not verify(prefix, vocab).problems
    make_vocab(tmp_path / "other", size=300)
    with pytest.raises(DataError, match="vocabulary"):
        verify_dataset.main([str(prefix), "--vocab", str(tmp_path / "other" / "vocab")])


def rewrite_checksums(prefix: Path, **changes: object) -> None:
    """Give the .json of a dataset other values, and right checksums of all files."""
    path = Path(f"{prefix}.json")
    facts = read_checked_json(path).content | changes
    facts["checksums"] = {s: file_checksum(Path(f"{prefix}{s}")) for s in facts["checksums"]}
    write_checked_json(path, facts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "names .* tokens"),
        (lambda rows: rows[1:2] + rows[:1] + rows[2:], "row 1 is out of order"),
        (lambda rows: [rows[0] | {"token_stop": 9999}, *rows[1:]], "row 0 is not inside"),
        (lambda rows: [rows[0] | {"modality": "speech"}, *rows[1:]], "row 0 names tokens that are"),
    ],
)
def test_spans_that_do_not_match_the_tokens(world, done, tmp_path, change, message):
    """Whole files with right checksums that say what is not so."""
    prefix = copy(done[0] / "out", tmp_path / "out")
    path = Path(f"{prefix}.spans.parquet")
    rows = change(pq.read_table(path).to_pylist())
    pq.write_table(pa.Table.from_pylist(rows, SPAN_SCHEMA), path)
    rewrite_checksums(prefix)
    with pytest.raises(DataError, match=message):
        run_verify(world, prefix)


def test_tokens_that_cannot_be(world, tmp_path):
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    with IndexedWriter(tmp_path / "x", vocab) as writer:
        writer.add(np.array([5, vocab.padded_size - 1, vocab.eod_id, 7]), [3, 1])
    writer.write_facts("text", None)
    problems = "; ".join(verify(tmp_path / "x", vocab).problems)
    assert f"holds ids 0..{vocab.padded_size - 1}" in problems
    assert "document 1 has no end mark" in problems
    rewrite_checksums(tmp_path / "x", text_tokens=3)
    assert "counts 2 documents and 3 tokens" in verify(tmp_path / "x", vocab).problems[0]
    rewrite_checksums(tmp_path / "x", text_tokens=3, speech_tokens=1)
    assert "there are (2, 4, 0)" in "; ".join(verify(tmp_path / "x", vocab).problems)
    (tmp_path / "x.bin").unlink()
    assert "does not exist" in verify(tmp_path / "x", vocab).problems[0]


def test_no_dataset_is_no_success(world):
    with pytest.raises(ConfigError, match="at least one dataset"):
        verify_dataset.main(["--vocab", str(world / "vocab")])


def test_merged_texts_need_the_end_marks_that_their_parts_have(world, tmp_path):
    whole, open_ended = text_dataset(world, tmp_path), text_dataset(world, tmp_path, 1, ends=False)
    run_merge(world, tmp_path / "both", whole, open_ended)
    assert not run_verify(world, tmp_path / "both")[0].problems
    run_merge(world, tmp_path / "ended", whole, copy(whole, tmp_path / "again"))
    assert "append_eod" not in json.loads((tmp_path / "ended.json").read_text())
