"""Gates are measured on real speech and tell the ways in which generated codes go wrong."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_speech.data.code_shards import CodeRecord, read_code_shard, write_code_shard
from megatron_speech.errors import ConfigError, DataError
from megatron_speech.interleaving.generate import generate
from megatron_speech.interleaving.plan import plan
from megatron_speech.io.files import read_json
from megatron_speech.io.parquet import read_parquet
from megatron_speech.speech_tokenizer import tokenizer as tokenizer_module
from megatron_speech.text_to_token.gates import GateConfig, Gates, longest_loops, pair_shares
from megatron_speech.text_to_token.self_check import SelfCheck
from tests.interleaving.jobs import generate_config, plan_config
from tests.interleaving.samples import INFO, NUM_CODES, LookUpEngine, look_up, write_codes

RATE = INFO.frame_rate_hz
TEXT = "x" * 60


def real_codes(rng, characters):
    return rng.integers(0, NUM_CODES, max(3, round(2 + 0.7 * characters * rng.uniform(0.8, 1.25))))


@pytest.fixture(scope="module")
def like(tmp_path_factory):
    """Real speech of about 0.7 codes a character."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("like") / "a.parquet"
    lengths = rng.integers(5, 120, 400)
    records = [
        CodeRecord(id=str(n), codes=real_codes(rng, size), text="x" * size)
        for n, size in enumerate(lengths)
    ]
    write_code_shard(path, records, INFO)
    return path


@pytest.fixture(scope="module")
def gates(like):
    return Gates(GateConfig(), like, RATE)


def reason(gates, codes, ended=True, text=TEXT):
    return gates.reasons([text], [np.asarray(codes, np.int64)], [ended])[0]


def test_real_speech_passes_and_faults_are_named(gates, like):
    rng = np.random.default_rng(1)
    _, records = read_code_shard(like)
    real = gates.reasons([r.text for r in records], [r.codes for r in records], [True] * 400)
    assert set(real) == {None}
    good = real_codes(rng, len(TEXT))
    assert reason(gates, good) is None
    assert reason(gates, good, ended=False) == "no_end"
    assert reason(gates, []) == "empty"
    assert reason(gates, good[:10]) == "too_short"
    assert reason(gates, np.tile(rng.integers(0, NUM_CODES, 6), 7)) == "loop"
    assert reason(gates, [*good[:20], *[5] * 16, *good[20:30]]) == "loop"
    assert reason(gates, [*good[:20], *[5] * 12, *good[20:30]]) is None  # a pause
    few = rng.permutation([n % 3 for n in range(40)])
    assert reason(gates, few) in ("collapse", "loop")
    walk = np.cumsum(rng.permutation(np.repeat([1, 2], 20))) % 7
    assert reason(gates, walk) == "collapse"


def test_speech_may_be_as_long_as_real_speech_and_not_much_longer(gates):
    for size in (5, 40, 110):
        longest = 1.25 * (2 + 0.7 * size)
        assert longest <= gates.most_codes("x" * size) <= 2.2 * longest + 1.5 * RATE
        assert 0.4 * longest / 1.6 <= gates.least_codes("x" * size) <= longest / 1.25


def test_named_bounds_go_before_measured_ones(like):
    config = GateConfig(least_seconds_per_character=0.01, most_seconds_per_character=0.1)
    named = Gates(config, like, RATE)
    assert named.most_codes("x" * 100) == int(RATE * 11.5) + 1
    assert named.least_codes("x" * 100) == pytest.approx(RATE)
    patient = Gates(GateConfig(most_loop_seconds=60, least_different_pairs=0), like, RATE)
    assert reason(patient, [5] * 40) is None
    strict = Gates(GateConfig(most_loop_seconds=0.2, least_different_pairs=0), like, RATE)
    assert reason(strict, [1, 2, 3, 3, 3, *range(4, 44)]) == "loop"


def test_too_little_real_speech_leaves_wide_bounds(tmp_path):
    write_codes(tmp_path / "few.parquet")
    gates = Gates(GateConfig(), tmp_path / "few.parquet", RATE)
    assert gates.bounds is None
    assert gates.most_codes("x" * 100) == int(RATE * 21.5) + 1
    assert reason(gates, [1] * 40) is None


@pytest.mark.parametrize(
    "bad",
    [
        {"least_seconds_per_character": 1.0, "most_seconds_per_character": 0.5},
        {"least_seconds_per_character": -1.0},
        {"gate_quantile": 0.5},
        {"gate_slack": 0.9},
        {"extra_seconds": -100.0},
    ],
)
def test_bounds_that_cannot_be(bad):
    with pytest.raises(ConfigError):
        GateConfig(**bad)


def loop_of(codes):
    """Longest stretch of some period at least three times, by trying all."""
    best = 0
    for period in range(1, 25):
        for start in range(len(codes)):
            stop = start + period
            while stop < len(codes) and codes[stop] == codes[stop - period]:
                stop += 1
            if stop - start >= 3 * period:
                best = max(best, stop - start)
    return best


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), max_size=30), min_size=1, max_size=5))
def test_loops_and_pairs_of_a_batch_are_those_of_each_text(texts):
    flat = np.array([code for text in texts for code in text], dtype=np.int64)
    lengths = np.array([len(text) for text in texts])
    assert longest_loops(flat, lengths).tolist() == [loop_of(text) for text in texts]
    shares = [len(set(pairwise(text))) / (len(text) - 1) if len(text) > 1 else 1 for text in texts]
    assert pair_shares(flat, lengths) == pytest.approx(shares)


class Recogniser:
    """Reads the look-up engine's codes, but one word in texts with `dog`."""

    fingerprint, text = INFO.tokenizer_fingerprint, object()

    def __init__(self, texts):
        self._table = {tuple(look_up(text)): text for text in texts}

    def decode_text(self, codes, languages=None):
        texts = [self._table[tuple(array)] for array in codes]
        return ["mumble" if "dog" in text else text for text in texts]


@pytest.fixture
def recogniser(monkeypatch):
    class Loaded:
        texts = ()

        @staticmethod
        def from_pretrained(folder, device):
            return Recogniser(Loaded.texts)

    monkeypatch.setattr(tokenizer_module, "SpeechTokenizer", Loaded)
    return Loaded


def test_what_the_recogniser_reads_otherwise_is_rejected(world, tmp_path, recogniser):
    plan(plan_config(world, tmp_path / "plan"))
    paths = sorted((tmp_path / "plan" / "requests").glob("*.parquet"))
    recogniser.texts = [t for p in paths for t in read_parquet(p)["text"].to_pylist()]
    gates = GateConfig(self_check=tmp_path)
    config = generate_config(world, tmp_path, gates=gates)
    counts = generate(config, LookUpEngine())
    misheard = sum("dog" in text and "bad" not in text for text in recogniser.texts)
    assert counts["rejected"]["misheard"] == misheard > 0
    for path in paths:
        report = read_parquet(tmp_path / "codes" / "reports" / path.name).to_pylist()
        _, records = read_code_shard(tmp_path / "codes" / path.name)
        for row, record in zip(report, records, strict=True):
            assert (row["reason"] is None) == (row["rejected_codes"] is None)
            assert (row["reason"] is None) == (len(record.codes) > 0)
            if row["reason"] is not None:
                assert row["rejected_codes"] == look_up(record.text).tolist()
            if row["reason"] is None:
                assert row["word_errors"] == 0 < row["words"]
    assert read_json(tmp_path / "codes" / "settings.json")["gates"]["self_check"] is True


def test_a_recogniser_of_other_codes_is_refused(tmp_path, recogniser):
    with pytest.raises(DataError, match="codes are of another"):
        SelfCheck(tmp_path, "another", "en", "cpu")
