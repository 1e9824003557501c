"""What was kept and what was not become pairs that a run reads, with what the model thinks."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaForCausalLM

from megatron_speech.data.code_shards import CodeRecord, write_code_shard
from megatron_speech.data.config import DataConfig
from megatron_speech.data.dataset import build_datasets
from megatron_speech.data.indexed import dataset_path
from megatron_speech.data.templates import tts_document
from megatron_speech.datasets.merge import merge
from megatron_speech.datasets.preferences import PreferenceConfig, build_preference
from megatron_speech.datasets.speech import TextToTokenConfig, build_text_to_token
from megatron_speech.errors import ConfigError, DataError
from megatron_speech.text.vocab import SpeechTextVocab
from tests.interleaving.jobs import documents_of
from tests.interleaving.samples import INFO
from tests.text_to_token.tiny_model import write_model

TEXTS = ["The cat ran.", "Mira saw a red dog", "near the river.", "She ate bread.", "Tom"] * 3
SIZE = 96


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """A vocabulary, the records of two shards, those of which there are losers, and the dataset."""
    folder, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    write_model(folder / "model", vocab)

    def record(number, voice):
        codes = rng.integers(0, INFO.num_codes, rng.integers(5, 20))
        return CodeRecord(id=f"d/{number:03d}", codes=codes, text=TEXTS[number], speaker=voice)

    better = [record(n, "en, ann" if n % 2 else "en, bob") for n in range(len(TEXTS))]
    worse = [record(n, better[n].speaker) for n in range(len(TEXTS)) if n not in (1, 8)]
    for shard, rows in (("a", range(7)), ("b", range(7, len(TEXTS)))):
        write_code_shard(folder / "codes" / f"{shard}.parquet", [better[n] for n in rows], INFO)
        mine = [r for r in worse if int(r.id[2:]) in rows]
        write_code_shard(folder / "codes" / "losers" / f"{shard}.parquet", mine, INFO)
    config = PreferenceConfig(
        codes=folder / "codes",
        vocab=world / "vocab",
        model=folder / "model",
        output_prefix=folder / "pairs",
        tags=("speaker",),
        device="cpu",
    )
    return vocab, better, worse, config, build_preference(config)


def documents(vocab, record):
    text = vocab.text.encode(f"[{record.speaker}] {record.text}")
    return tts_document(vocab, text, record.codes)


def test_pairs_and_what_the_model_thinks_of_them(made):
    vocab, better, worse, config, facts = made
    kept = {record.id: record for record in better}
    found = documents_of(config.output_prefix)
    expected = [[*documents(vocab, kept[r.id]), *documents(vocab, r)] for r in worse]
    assert found == expected
    assert (facts.kind, facts.loss_rule, facts.packing) == ("preference", "preference", "whole")
    assert ".reference.parquet" in facts.checksums
    model = LlamaForCausalLM.from_pretrained(config.model)
    table = pq.read_table(dataset_path(config.output_prefix, ".reference.parquet"))
    for row, record in zip(table.to_pylist(), worse, strict=True):
        for name, answer in (("chosen", kept[record.id]), ("rejected", record)):
            ids = documents(vocab, answer)
            with torch.no_grad():
                likely = model(torch.from_numpy(ids)[None]).logits[0].log_softmax(-1)
            at = range(len(ids) - len(answer.codes) - 2, len(ids))  # codes, end of audio, eod
            total = sum(likely[n - 1, ids[n]].item() for n in at)
            assert row[name] == pytest.approx(total, rel=1e-5)


def blend(made, tmp_path, *paths, **settings):
    config = DataConfig(
        data_path=tuple(map(str, paths)), data_cache_path=tmp_path, seq_length=SIZE, **settings
    )
    return build_datasets(config, made[0], (64, 0), seed=3)


def test_windows_hold_whole_pairs_whose_answers_do_not_see_each_other(made, tmp_path):
    vocab, better, worse, config, _ = made
    datasets = blend(made, tmp_path, config.output_prefix)
    assert datasets.preferences
    assert datasets.separate_documents
    table = pq.read_table(dataset_path(config.output_prefix, ".reference.parquet")).to_pylist()
    kept = {record.id: record for record in better}
    known = {
        tuple(documents(vocab, kept[r.id])): (tuple(documents(vocab, r)), row)
        for r, row in zip(worse, table, strict=True)
    }
    seen = 0
    for index in range(datasets.train.datasets[0].windows_per_epoch):
        item = {name: value.numpy() for name, value in datasets.train[index].items()}
        pairs, ids = item["pairs"], item["documents"]
        for begin in sorted({*pairs[pairs > 0].tolist()}):
            first, second = np.flatnonzero(pairs == begin), np.flatnonzero(pairs == -begin)
            assert first[0] == begin - 1
            assert first[-1] + 1 == second[0]
            assert len(set(ids[first])) == len(set(ids[second])) == 1
            assert ids[first[0]] != ids[second[0]]
            assert item["position_ids"][first[0]] == item["position_ids"][second[0]] == 0
            other, row = known[tuple(item["tokens"][first])]
            assert tuple(item["tokens"][second]) == other[:-1]
            assert item["labels"][second[-1]] == other[-1] == vocab.eod_id
            counted = item["loss_mask"][first].sum(), item["loss_mask"][second].sum()
            codes = [sum(vocab.is_speech(item["tokens"][at])) for at in (first, second)]
            assert counted == (codes[0] + 2, codes[1] + 2), "codes, end of audio, end of document"
            assert item["reference"][second[-1]] == np.float32(row["chosen"] - row["rejected"])
            seen += 1
        assert np.count_nonzero(item["reference"]) == len({*pairs[pairs > 0].tolist()})
    assert seen == len(worse)


def test_pairs_are_neither_mixed_nor_merged_nor_weighted(made, world, tmp_path):
    vocab, _, _, config, _ = made
    build_text_to_token(
        TextToTokenConfig(
            codes=(config.codes,), vocab=world / "vocab", output_prefix=tmp_path / "t2t"
        )
    )
    with pytest.raises(ConfigError, match="cannot be mixed with the pairs"):
        blend(made, tmp_path, config.output_prefix, tmp_path / "t2t")
    with pytest.raises(ConfigError, match="are not for pairs"):
        blend(made, tmp_path, config.output_prefix, speech_loss_weight=2.0)
    with pytest.raises(ConfigError, match="--dpo-nll-weight is for pairs"):
        blend(made, tmp_path, tmp_path / "t2t", dpo_nll_weight=1.0)
    with pytest.raises(ConfigError, match="--dpo-nll-weight is -1"):
        blend(made, tmp_path, config.output_prefix, dpo_nll_weight=-1)
    with pytest.raises(ConfigError, match="--dpo-beta is 0"):
        blend(made, tmp_path, config.output_prefix, dpo_beta=0)
    with pytest.raises(DataError, match="which are not merged"):
        merge([config.output_prefix], tmp_path / "merged", vocab)
