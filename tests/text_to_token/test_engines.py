import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from megatron_speech.data.code_shards import read_code_shard
from megatron_speech.data.templates import speak_prompt
from megatron_speech.errors import CheckpointError, ConfigError
from megatron_speech.interleaving.make_codes import Maker, generate_shard, read_report
from megatron_speech.io.files import read_json, write_json
from megatron_speech.text_to_token import transformers_engine
from megatron_speech.text_to_token.engines import EngineConfig, make_batches, split_requests
from megatron_speech.text_to_token.gates import GateConfig, Gates
from megatron_speech.text_to_token.transformers_engine import TransformersEngine
from tests.interleaving.samples import INFO, WORDS, make_vocab, write_codes
from tests.text_to_token.tiny_model import write_model

POSITIONS = 40

TEXTS = ["The cat.", "Mira saw a red dog near the river.", "ran", "She and Tom ate bread."] * 3
SEEDS = list(range(100, 100 + len(TEXTS)))


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    return make_vocab(tmp_path_factory.mktemp("vocab"))


@pytest.fixture(scope="module")
def model_folder(vocab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, vocab)
    return folder


def reference(model_folder, vocab, text, limit):
    """One text alone, without cache, padding or batch."""
    model = LlamaForCausalLM.from_pretrained(model_folder)
    ids = speak_prompt(vocab, vocab.text.encode(text)).tolist()
    codes = []
    while len(codes) < limit:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        allowed = [*range(vocab.code_offset, vocab.code_offset + vocab.num_codes)]
        allowed.append(vocab.end_of_audio_id)
        ids.append(allowed[int(logits[allowed].argmax())])
        if ids[-1] == vocab.end_of_audio_id:
            return codes, True
        codes.append(ids[-1] - vocab.code_offset)
    return codes, False


def limit_of(text):
    return 5 + len(text)


def run(model_folder, texts=TEXTS, seeds=SEEDS, **settings):
    engine = TransformersEngine(model_folder, EngineConfig(device="cpu", **settings))
    return [(g.codes.tolist(), g.ended) for g in engine.generate(texts, seeds, limit_of)]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batched_decoding_equals_one_text_at_a_time(model_folder, vocab, batch_size):
    expected = {text: reference(model_folder, vocab, text, limit_of(text)) for text in set(TEXTS)}
    assert len({ended for _, ended in expected.values()}) == 2, (
        "want texts that end and that do not"
    )
    found = run(model_folder, batch_size=batch_size)
    assert found == [expected[text] for text in TEXTS]


def test_sampling_depends_on_the_seed_and_not_on_the_neighbours(model_folder):
    together = run(model_folder, temperature=1.0)
    alone = run(model_folder, temperature=1.0, batch_size=1)
    backwards = run(model_folder, TEXTS[::-1], SEEDS[::-1], temperature=1.0)[::-1]
    assert together == alone == backwards
    other = run(model_folder, seeds=[seed + 1000 for seed in SEEDS], temperature=1.0)
    assert other != together
    assert len({tuple(codes) for codes, _ in together[::4]}) > 1, "equal texts, other seeds"


@pytest.fixture(scope="module")
def short_model_folder(model_folder, tmp_path_factory):
    """The same model with 40 positions."""
    folder = tmp_path_factory.mktemp("short") / "model"
    shutil.copytree(model_folder, folder)
    write_json(folder / "config.json", read_json(folder / "config.json") | {
        "max_position_embeddings": POSITIONS})  # fmt: skip
    return folder


def test_texts_beyond_the_models_positions_are_told_apart(short_model_folder, vocab):
    """Texts that fit are unharmed; the others say so, be it the prompt or its codes."""
    texts = [*TEXTS[:4], *(" ".join([word] * 10) for word in WORDS), " ".join(["river"] * 60)]
    engine = TransformersEngine(short_model_folder, EngineConfig(device="cpu"))
    seen = []
    decode = engine._decoder.decode
    engine._decoder.decode = lambda prompts, most, seeds: (
        seen.extend(len(p) + m for p, m in zip(prompts, most, strict=True))
        or decode(prompts, most, seeds)
    )
    found = engine.generate(texts, range(len(texts)), limit_of)
    assert max(seen) == POSITIONS
    for text, result in zip(texts, found, strict=True):
        prompt = len(speak_prompt(vocab, vocab.text.encode(text)))
        limit = min(limit_of(text), POSITIONS - prompt)
        if limit <= 0:
            assert (len(result.codes), result.ended, result.batch) == (0, False, None)
            assert result.too_long
            continue
        codes, ended = reference(short_model_folder, vocab, text, limit)
        assert (result.codes.tolist(), result.ended) == (codes, ended)
        assert result.too_long == (not ended and limit < limit_of(text))
    assert found[-1].batch is None
    assert any(result.too_long and len(result.codes) for result in found)
    assert not all(result.too_long for result in found)


def test_a_request_that_is_too_long_is_rejected_with_that_reason(
    short_model_folder, vocab, tmp_path
):
    texts = ["The cat.", " ".join(["river"] * 60)]
    pq.write_table(
        pa.table({"id": ["a", "b"], "text": texts, "seed": [1, 2]}), tmp_path / "r.parquet"
    )
    engine = TransformersEngine(short_model_folder, EngineConfig(device="cpu"))
    write_codes(tmp_path / "like.parquet")
    config = GateConfig(least_seconds_per_character=0, extra_seconds=0.1)
    gates = Gates(config, tmp_path / "like.parquet", INFO.frame_rate_hz)
    maker = Maker(engine, INFO, gates, None, 0.5)
    generate_shard(tmp_path / "r.parquet", maker, tmp_path / "codes", lambda count: None)
    batches, reasons = read_report(tmp_path / "codes", "r.parquet")
    assert (batches, reasons[1]) == ([0, None], "too_long")
    assert reasons[0] != "too_long"
    _, records = read_code_shard(tmp_path / "codes" / "r.parquet")
    assert len(records[1].codes) == 0


def test_low_temperature_comes_near_the_likeliest_codes(model_folder):
    assert run(model_folder, temperature=1e-4) == run(model_folder)


def test_long_texts_are_joined_from_their_sentences(model_folder):
    text = "The cat ran. Mira saw Tom."
    parts = run(model_folder, ["The cat ran.", "Mira saw Tom."], [1, 2])
    whole = run(model_folder, [text], [1], most_characters=14)
    assert whole == [(parts[0][0] + parts[1][0], parts[0][1] and parts[1][1])]


def test_equal_texts_are_decoded_once_without_sampling():
    parts, members = split_requests(TEXTS, SEEDS, EngineConfig())
    assert len(parts) == 4
    assert members == [[0], [1], [2], [3]] * 3
    parts, _ = split_requests(TEXTS, SEEDS, EngineConfig(temperature=0.5))
    assert len(parts) == len({part.seed for part in parts}) == len(TEXTS)


def test_a_voice_is_chosen_by_the_seed_and_said_to_the_model(model_folder):
    voices = ("en, ann", "en, bob")
    greedy, _ = split_requests(["cat"] * 40, range(40), EngineConfig(voices=voices))
    assert sorted(part.voice for part in greedy) == list(voices), "one of each is decoded"
    sampled = EngineConfig(voices=voices, temperature=1.0)
    parts, _ = split_requests(["cat"] * 40, range(40), sampled)
    assert 8 < sum(part.voice == "en, ann" for part in parts) < 32
    seed = [part.voice for part in parts].index("en, bob")

    def codes(text, **settings):
        engine = TransformersEngine(model_folder, EngineConfig(device="cpu", **settings))
        return engine.generate([text], [seed], lambda text: 20)[0].codes.tolist()

    assert codes("cat", voices=voices) == codes("[en, bob] cat") != codes("cat")


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 20))
def test_batches_hold_every_item_once_longest_first(lengths, size):
    batches = make_batches(lengths, size)
    order = [int(i) for batch in batches for i in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert all(len(batch) == size for batch in batches[:-1])
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)


def test_fingerprint_tells_models_and_settings_apart(model_folder, vocab, tmp_path):
    def fingerprint(folder, **settings):
        return TransformersEngine(folder, EngineConfig(device="cpu", **settings)).fingerprint

    first = fingerprint(model_folder)
    assert fingerprint(model_folder) == first
    assert fingerprint(model_folder, temperature=0.5) != first
    model = LlamaForCausalLM.from_pretrained(model_folder)
    model.lm_head.weight.data[0, 0] += 1
    model.save_pretrained(tmp_path)
    vocab.save_pretrained(tmp_path)
    assert fingerprint(tmp_path) != first


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(CheckpointError, match="no exported model"):
        TransformersEngine(tmp_path, EngineConfig())
    with pytest.raises(ConfigError):
        EngineConfig(batch_size=0)


def test_a_batch_that_does_not_fit_is_said(model_folder, monkeypatch):
    def full(*arguments, **settings):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    engine = TransformersEngine(model_folder, EngineConfig(device="cpu", batch_size=8))
    monkeypatch.setattr(engine._decoder, "decode", full)
    with pytest.raises(ConfigError, match=r"4 texts at once do not fit.*2 GiB.*smaller --batch"):
        engine.generate(TEXTS, SEEDS, limit_of)


def test_rows_that_have_ended_may_be_asked_for_seldom(model_folder, monkeypatch):
    """As on a GPU, where asking stalls it."""
    often = TransformersEngine(model_folder, EngineConfig(device="cpu"))
    expected = often.generate(TEXTS, SEEDS, limit_of)
    monkeypatch.setitem(transformers_engine._STEPS_BETWEEN_CHECKS, "cpu", 16)
    seldom = TransformersEngine(model_folder, EngineConfig(device="cpu"))
    found = seldom.generate(TEXTS, SEEDS, limit_of)
    for one, other in zip(expected, found, strict=True):
        assert (one.codes.tolist(), one.ended) == (other.codes.tolist(), other.ended)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("weight", ["lm_head.weight", "model.layers.1.mlp.down_proj.weight"])
def test_a_model_whose_logits_are_nan_makes_no_codes(
    weight, temperature, model_folder, vocab, tmp_path
):
    shutil.copytree(model_folder, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors[weight][vocab.code_offset % len(tensors[weight])] = torch.nan
    save_file(tensors, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="logits are NaN"):
        run(tmp_path / "model", temperature=temperature)
