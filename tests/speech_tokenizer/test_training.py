import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_speech.data.manifest import ManifestRow
from megatron_speech.errors import ConfigError
from megatron_speech.recipes.speech_tokenizer import RECIPES
from megatron_speech.speech_tokenizer.characters import ALPHABET, CharacterHeads, character_ids
from megatron_speech.speech_tokenizer.config import SpeechTokenizerConfig
from megatron_speech.speech_tokenizer.dataset import AsrDataset, SpeechDataConfig
from megatron_speech.speech_tokenizer.features import batches_by_length, clip_features
from megatron_speech.speech_tokenizer.objective import ObjectiveConfig, ctc_loss
from megatron_speech.speech_tokenizer.text import AsrText, spoken_words, train_text_tokenizer
from megatron_speech.speech_tokenizer.transcription import word_error_rate
from megatron_speech.speech_tokenizer.validation import evaluate_sets


def test_batches_by_length_cover_all_within_the_limit():
    lengths = [5, 1, 9, 3, 7, 200]
    batches = list(batches_by_length(lengths, limit=20))
    assert sorted(n for batch in batches for n in batch) == list(range(6))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[n] for n in batch) <= 20


def test_ctc_loss_by_hand():
    # Two frames, one token: the paths "aa", "a-", "-a" of probability 1/4 each (blank is last).
    logits = torch.zeros(1, 3, 2)
    valid = torch.tensor([[True, True, False]])
    assert ctc_loss(logits, valid, [[0]]).item() == pytest.approx(-math.log(3 / 4))
    assert ctc_loss(logits, valid, [[0, 0, 0]]).item() == 0  # does not fit: left out


def test_characters():
    assert "".join(ALPHABET[n] for n in character_ids("Don't  STOP, 2 é!")) == "don't stop  "
    heads = CharacterHeads(SpeechTokenizerConfig(d_model=20), lower=True, upper=True)
    logits = heads(torch.zeros(3, 8, 20), torch.zeros(3, 2, 20))
    assert logits.lower.shape == logits.upper.shape == (3, 8, len(ALPHABET) + 1)
    only_upper = CharacterHeads(SpeechTokenizerConfig(d_model=20), lower=False, upper=True)
    assert only_upper(torch.zeros(3, 8, 20), torch.zeros(3, 2, 20)).lower is None


def test_attention_is_chosen_by_precision_and_device():
    debug = RECIPES["tokenizer-debug"]()
    bf16 = replace(debug, optimizer=replace(debug.optimizer, bf16=True))
    assert debug.attention_on("cpu") == "sdpa"
    assert bf16.attention_on("cpu") == "eager"
    assert bf16.attention_on("cuda") == debug.attention_on("cuda") == "sdpa"
    assert replace(bf16, attention="sdpa").attention_on("cpu") == "sdpa"
    with pytest.raises(ConfigError, match="expected auto, eager or sdpa"):
        replace(debug, attention="flash")


def test_negative_weights_are_refused():
    with pytest.raises(ConfigError, match="--character-ctc-weight is -1"):
        ObjectiveConfig(character_ctc_weight=-1)


def test_spoken_words():
    assert spoken_words("Don't stop, Anna!") == " don't stop anna"
    assert spoken_words("...") == ""
    assert spoken_words("L’été, c'est ‘là’") == " l'été c'est là"


def test_text_tokenizer_round_trip(text_folder, tmp_path):
    text = AsrText(text_folder, words_only=True)
    ids = text.encode("The CAT, sat?")
    assert text.decode(ids) == "the cat sat"
    assert text.prompt("en") == [text.eos_id]
    assert len(ids) == 3
    text.save_pretrained(tmp_path)
    assert AsrText(tmp_path, words_only=True).encode("The cat sat") == ids
    with pytest.raises(ConfigError, match="258"):
        train_text_tokenizer(["a"], 100, tmp_path)


def test_word_error_rate_ignores_case_and_punctuation():
    assert word_error_rate(["The cat sat."], ["the cat, sat"]) == 0
    assert word_error_rate(["the cat sat down", "..."], ["the dog sat", "x"]) == pytest.approx(0.5)
    assert math.isnan(word_error_rate([""], ["a"]))


def test_without_spaces_characters_are_words():
    assert word_error_rate(["今天天气很好。"], ["今天 天汽很好"], "zh-CN") == pytest.approx(1 / 6)
    assert word_error_rate(["彼女は来た"], ["彼女が来た"], "ja") == pytest.approx(1 / 5)
    assert word_error_rate(["ที่นี่"], ["ที่นั่น"], "th") == pytest.approx(2 / 2)
    assert word_error_rate(["une fille"], ["un fille"], "fr") == pytest.approx(1 / 2)


class Reader(AsrText):
    """Reads what it is told to."""

    def __init__(self, folder, readings):
        super().__init__(folder)
        self.readings = readings

    def transcribe(self, model, encoded, valid, languages, decoding=None, limited=True):
        return [self.readings[language] for language in languages]


def test_each_row_of_a_validation_set_is_judged_by_its_language(make_tokenizer, text_folder):
    model = make_tokenizer().model
    readings = {"zh": "今天天汽很好", "en": "we're the cat", "": "we're the cat"}
    rows = [
        ManifestRow(id=f"{language}.", path=Path("none"), text=said, language=language)
        for language, said in (
            ("zh", "今天天气很好"),
            ("en", "We are a cat."),
            ("", "We are a cat"),
        )
    ]
    data = SpeechDataConfig(cache_features=True)

    class Recordings(AsrDataset):
        def _load(self, row):
            return clip_features(np.full(4000, 0.1, np.float32), self.config)

    found = Recordings([rows], Reader(text_folder, readings), model.config, data)
    metrics = evaluate_sets(model, {"mixed": found}, quantize=True)
    assert metrics["wer mixed"] == pytest.approx((1 + 1 + 1) / (6 + 4 + 4))
    losses = []
    for batch in (found.batch([index]) for index in range(3)):
        said = (batch.mel, batch.mel_lengths, batch.decoder_input, True)
        logits = model(*said).logits.log_softmax(dim=-1)[0]
        told = batch.labels[0] >= 0
        losses += (-logits[told, batch.labels[0][told]]).tolist()
    assert metrics["asr loss mixed"] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "rate_hz", "codes", "bits_per_s"),
    [
        ("tokenizer-large-v3-50hz", 50, 4096, 600),
        ("tokenizer-large-v3-25hz", 25, 4096, 300),
        ("tokenizer-large-v3-12.5hz", 12.5, 16384, 175),
        ("tokenizer-large-v3-6.25hz", 6.25, 65536, 100),
    ],
)
def test_the_papers_settings(name, rate_hz, codes, bits_per_s):
    recipe = RECIPES[name]()
    model = recipe.model
    assert (model.frame_rate_hz, model.quantize_vocab_size) == (rate_hz, codes)
    assert rate_hz * math.log2(codes) == bits_per_s
    assert (model.d_model, model.encoder_layers, model.quantize_position) == (1280, 32, 16)
    assert 2.0 <= model.quantize_causal_block_size / 50 <= 2.08
    assert (model.quantize_ema_decay, model.quantize_restart_interval) == (0.99, 100)
    assert model.quantize_loss_scale * model.quantize_commit_coefficient == 10
    assert (recipe.optimizer.lr, recipe.data.global_batch_size) == (1e-5, 4096)
    assert recipe.objective.kmeans_vectors is None  # follows the codebook
    assert recipe.optimizer.bf16
