"""Of several samples the one with the fewest word errors is kept, however the work is split."""

from typing import ClassVar

import numpy as np
import pytest

from megatron_speech.data.code_shards import read_code_shard
from megatron_speech.datasets.speech import TextToTokenConfig, build_text_to_token
from megatron_speech.errors import ConfigError
from megatron_speech.interleaving.best_of import Attempt, BestOfConfig, choose, losers
from megatron_speech.interleaving.generate import generate
from megatron_speech.interleaving.plan import plan
from megatron_speech.io.files import read_json
from megatron_speech.io.parquet import read_parquet
from megatron_speech.speech_tokenizer.tokenizer import SpeechTokenizer
from megatron_speech.text_to_token.engines import EngineConfig, Generation, split_requests
from megatron_speech.text_to_token.gates import GateConfig, Gates, SpeechBounds
from tests.interleaving.jobs import files_of, generate_config, plan_config
from tests.interleaving.samples import INFO, LookUpEngine, look_up

TEMPERATURE = EngineConfig(temperature=0.7, voices=("en, ann", "en, bob"))
GATES = GateConfig(least_seconds_per_character=0.0)


def spoil(text, seed, sample):
    """Codes of a text with 0 to 4 of its codes wrong, by chance; sometimes far too long."""
    rng = np.random.default_rng([seed, sample])
    codes, wrong = look_up(text), int(rng.integers(0, 5))
    codes[:wrong] = (codes[:wrong] + 1) % INFO.num_codes
    return Generation(codes, "bad" not in text and rng.random() > 0.2, 0)


class SamplingEngine(LookUpEngine):
    """A look-up engine that makes mistakes, other ones in each sample."""

    said: ClassVar[dict[tuple[int, ...], str]] = {}
    """What can be heard in codes: a wrong word more for each code that is wrong."""

    def generate(self, texts, seeds, most_codes, advance=lambda count: None, *, sample=0):
        advance(len(texts))
        made = [spoil(text, seed, sample) for text, seed in zip(texts, seeds, strict=True)]
        for text, own in zip(texts, made, strict=True):
            self.said[tuple(own.codes)] = text + " mumble" * errors_of(text, own)
        return made


def errors_of(text, made):
    return int((made.codes != look_up(text)).sum())


class Recogniser:
    fingerprint = INFO.tokenizer_fingerprint

    def decode_text(self, codes, languages=None):
        return [SamplingEngine.said[tuple(own)] for own in codes]


@pytest.fixture(scope="module")
def planned(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("best")
    plan(plan_config(world, folder / "plan"))
    return folder


@pytest.fixture
def config(world, planned, monkeypatch, tmp_path):
    """Settings of a generate job for an output folder and a number of samples."""
    monkeypatch.setattr(SpeechTokenizer, "from_pretrained", lambda folder, device: Recogniser())

    def settings(output, best_of, **changes):
        gates = GateConfig(least_seconds_per_character=0.0, self_check=tmp_path)
        made = {"engine": TEMPERATURE, "gates": gates, "best": BestOfConfig(best_of=best_of)}
        whole = generate_config(world, planned, **{**made, **changes})
        return whole.__class__(**{**vars(whole), "output": tmp_path / output})

    return settings


def test_the_best_of_the_samples_is_kept_and_a_worse_one_beside_it(
    config, world, planned, tmp_path
):
    counts = generate(config("four", 4), SamplingEngine())
    first = generate(config("one", 1), SamplingEngine())
    shards = sorted((tmp_path / "four").glob("*.parquet"))
    changed = pairs = errors = errors_first = 0
    for path in shards:
        report = read_parquet(tmp_path / "four" / "reports" / path.name).to_pylist()
        before = read_parquet(tmp_path / "one" / "reports" / path.name).to_pylist()
        _, records = read_code_shard(path)
        _, worse = read_code_shard(tmp_path / "four" / "losers" / path.name)
        requests = read_parquet(planned / "plan" / "requests" / path.name)
        seeds = dict(zip(requests["id"].to_pylist(), requests["seed"].to_pylist(), strict=True))
        beside = {record.id: record for record in worse}
        for row, old, record in zip(report, before, records, strict=True):
            samples = [spoil(record.text, seeds[record.id], n) for n in range(4)]
            expected = [errors_of(record.text, own) if own.ended else None for own in samples]
            assert row["sample_errors"] == expected
            assert expected[0] == old["word_errors"]
            assert row["sampled_codes"] == sum(len(own.codes) for own in samples)
            counted = [n for n in expected if n is not None]
            if not counted:
                assert (row["reason"], len(record.codes), row["sample"]) == ("no_end", 0, 0)
                continue
            kept = row["sample"]
            assert expected[kept] == min(counted) == row["word_errors"]
            changed += kept != 0
            errors += min(counted) if expected[0] is not None else 0
            errors_first += expected[0] or 0
            if row["reason"] is not None:
                assert record.id not in beside
                continue
            assert record.codes.tolist() == samples[kept].codes.tolist()
            assert record.speaker in TEMPERATURE.voices
            assert (record.id in beside) == (max(counted) > min(counted))
            if record.id in beside:
                loser = beside[record.id]
                pairs += 1
                assert loser.codes.tolist() == samples[expected.index(max(counted))].codes.tolist()
                assert (loser.text, loser.speaker) == (record.text, record.speaker)
    best = counts["best_of"]
    assert best["samples"] == 4 * counts["requests"]
    assert best["changed"] == pytest.approx(changed / counts["requests"])
    assert (best["pairs"], errors < errors_first, pairs > 20) == (pairs, True, True)
    assert best["wer_kept"] / best["wer_first"] == pytest.approx(errors / errors_first)
    assert sum(counts["rejected"].values()) < sum(first["rejected"].values())
    assert counts["this_run"]["codes"] == best["codes"] > 3 * first["codes"]
    build_text_to_token(
        TextToTokenConfig(
            codes=(tmp_path / "four",),
            vocab=world / "vocab",
            output_prefix=tmp_path / "t2t",
            tags=("speaker",),
        )
    )


def test_split_and_restarts_change_no_byte(config, tmp_path):
    generate(config("whole", 3), SamplingEngine())
    whole = files_of(tmp_path / "whole")
    for task in (1, 0, 1):
        generate(config("parts", 3, shard_offset=task, shard_step=2), SamplingEngine())
    assert files_of(tmp_path / "parts") == whole
    for path in sorted((tmp_path / "parts").glob("*.parquet"))[::2]:
        path.unlink()  # killed before the shard was there, with a report and losers that were
        (tmp_path / "parts" / "losers" / path.name).write_bytes(b"")
    generate(config("parts", 3), SamplingEngine())
    assert files_of(tmp_path / "parts") == whole
    with pytest.raises(ConfigError, match="best_of"):
        generate(config("parts", 2), SamplingEngine())


def test_one_sample_leaves_everything_as_it_was(config, tmp_path):
    counts = generate(config("one", 1), SamplingEngine())
    assert not {"best_of", "this_run"} & counts.keys()
    assert not (tmp_path / "one" / "losers").exists()
    settings = read_json(tmp_path / "one" / "settings.json")
    assert settings["generator_fingerprint"] == "look-up"
    assert not {"best_of", "pair_margin"} & settings.keys()
    path = next((tmp_path / "one").glob("*.parquet"))
    report = read_parquet(tmp_path / "one" / "reports" / path.name)
    assert report.column_names[-1] == "rejected_codes"
    assert read_code_shard(path)[1][0].speaker is None
    generate(config("two", 2), SamplingEngine())
    settings = read_json(tmp_path / "two" / "settings.json")
    assert settings["generator_fingerprint"] != "look-up"


def test_several_samples_need_a_judge_and_a_temperature(world, planned, tmp_path):
    four = {"best": BestOfConfig(best_of=4)}
    with pytest.raises(ConfigError, match="give --self-check"):
        generate_config(world, planned, engine=TEMPERATURE, **four)
    with pytest.raises(ConfigError, match="a --temperature above 0"):
        generate_config(world, planned, gates=GateConfig(self_check=tmp_path), **four)
    with pytest.raises(ConfigError, match="at least 1"):
        BestOfConfig(best_of=0)


def attempt(*samples):
    """One sample of each text: number of codes, and word errors (None: rejected)."""
    results = [Generation(np.arange(count), True, 0) for count, _ in samples]
    reasons = [None if errors is not None else "loop" for _, errors in samples]
    heard = [None if errors is None else (errors, 10) for _, errors in samples]
    return Attempt(results, reasons, heard)


@pytest.mark.parametrize("measured", [True, False])
def test_equals_are_told_apart_by_length(world, measured):
    gates = Gates(GATES, world / "like", INFO.frame_rate_hz)
    if measured:  # 20 codes for ten characters
        gates.bounds = SpeechBounds(base=0.0, per_character=2.0, least=0, most=9, loop=99, pairs=0)
    #                      length  errors  gates   all bad
    attempts = [
        attempt((28, 1), (20, 2), (20, None), (5, None)),
        attempt((21, 1), (40, 0), (90, 6), (20, None)),
        attempt((18, 1), (20, 4), (21, 7), (6, None)),
    ]
    texts = ["x" * 10] * 4
    kept = choose(texts, attempts, gates)
    assert kept == [1 if measured else 0, 1, 1, 0]
    worse = losers(attempts, kept, margin=1)
    assert [one and len(one.codes) for one in worse] == [None, 20, 21, None]
    assert losers(attempts, kept, margin=2)[2] is None
    attempts[1].reasons[2] = "misheard"
    assert losers(attempts, kept, margin=1)[2] is None


def test_samples_differ_in_their_seeds_and_not_in_their_voices():
    seeds = range(50)
    parts = [split_requests(["cat"] * 50, seeds, TEMPERATURE, sample)[0] for sample in range(3)]
    assert parts[0] == split_requests(["cat"] * 50, seeds, TEMPERATURE)[0]
    assert len({part.seed for own in parts for part in own}) == 150
    voices = [[part.voice for part in own] for own in parts]
    assert voices[0] == voices[1] == voices[2]
    assert set(voices[0]) == set(TEMPERATURE.voices)
