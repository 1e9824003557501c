"""Dialogues to datasets, with an engine that looks codes up and with recordings."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megatron_speech.chat import build
from megatron_speech.chat.build import build_dialogues
from megatron_speech.chat.config import DialoguesConfig
from megatron_speech.chat.template import ChatTemplate, TemplateConfig
from megatron_speech.data.code_shards import CodeRecord, write_code_shard
from megatron_speech.data.indexed_files import read_facts
from megatron_speech.errors import ConfigError, DataError, VocabularyError
from megatron_speech.text.vocab import SpeechTextVocab
from tests.interleaving.jobs import documents_of, files_of
from tests.interleaving.samples import (
    INFO,
    NUM_CODES,
    LookUpEngine,
    look_up,
    make_vocab,
    write_codes,
)

DIALOGUES = {
    "a": ["Tom saw a dog.", "The dog ran.", "Where was it?", "It was near the house."],
    "b": ["She found bread.", "They ate it in the garden."],
    "c": ["Read `this_code`", "No."],
    "d": ["It was a bad dog.", "Yes."],  # the engine cannot say it
    "e": ["Hello there.", "Good morning.", "And this?", "| a | b |\n| c | d |"],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dialogues")
    make_vocab(folder)
    write_codes(folder / "like" / "a.parquet")
    write_dialogues(folder / "in.jsonl", DIALOGUES)
    return folder


def write_dialogues(path: Path, dialogues: dict[str, list[str]], *more: str) -> None:
    roles = ("user", "assistant")
    lines = [
        json.dumps(
            {"id": k, "messages": [{"role": roles[n % 2], "content": t} for n, t in enumerate(v)]}
        )
        for k, v in dialogues.items()
    ]
    path.write_text("\n".join([*lines, *more]) + "\n")


def config_of(world: Path, output: Path, **changes) -> DialoguesConfig:
    settings = {
        "input": (str(world / "in.jsonl"),),
        "vocab": world / "vocab",
        "output_prefix": output / "set",
        "model": world,
        "like": world / "like",
        "requests_per_shard": 3,
        "template": TemplateConfig(text_block=4, speech_block=6),
        **changes,
    }
    return DialoguesConfig(**settings)


def expected(vocab: SpeechTextVocab, config: DialoguesConfig, mode, turns: list[str]) -> list[int]:
    template = ChatTemplate(vocab, config.template)
    tokens = template.system(mode, "speech")
    for user, assistant in zip(turns[::2], turns[1::2], strict=True):
        tokens += [template.stop_id, *template.spoken_question(look_up(user))]
        tokens += template.answer_begin(mode)
        tokens += template.answer(mode, vocab.text.encode(assistant), look_up(assistant))
    return [*tokens, template.stop_id, vocab.eod_id]


def test_every_mode_is_a_dataset_with_its_own_loss(world, tmp_path):
    config = config_of(world, tmp_path, questions=("speech", "text"))
    result = build_dialogues(config, LookUpEngine())
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    kept = [DIALOGUES["a"], DIALOGUES["b"], DIALOGUES["e"][:2]]
    rules = {"text": "assistant_text", "direct": "assistant_speech", "guided": "assistant"}
    for mode in ("text", "direct", "guided", "streaming"):
        prefix = tmp_path / f"set-{mode}"
        fitting = kept[:2] if mode == "streaming" else kept  # the last is spoken too fast
        documents = [expected(vocab, config, mode, turns) for turns in fitting]
        assert documents_of(prefix) == documents
        facts = read_facts(prefix)
        assert (facts.kind, facts.packing) == (f"dialogue_{mode}", "whole")
        assert facts.loss_rule == rules.get(mode, "assistant")
        assert facts.tokenizer_fingerprint == INFO.tokenizer_fingerprint
        assert (tmp_path / f"set-{mode}-from-text.json").exists()
    assert result["dialogues"]["rejected"] == {"code": 1, "tables": 1}
    assert result["datasets"]["direct"]["rejected"] == {"no_codes_of_question": 1}
    streaming = json.loads((tmp_path / "set-streaming.json").read_text())
    assert streaming["rejected"] == {"no_codes_of_question": 1, "text_outlasts_speech": 1}
    assert streaming["template"]["speech_block"] == 6
    lines = (tmp_path / "set-direct.rejected.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"id": "d/000", "reason": "no_codes_of_question", "detail": ""}
    # what cannot be heard can still be read
    assert result["datasets"]["text-from-text"]["documents"] == 4


def test_losses_of_streaming_can_be_split(world, tmp_path):
    modes = ("streaming", "streaming_text", "streaming_speech")
    build_dialogues(config_of(world, tmp_path, modes=modes), LookUpEngine())
    sets = [tmp_path / f"set-{mode}" for mode in modes]
    assert documents_of(sets[0]) == documents_of(sets[1]) == documents_of(sets[2])
    assert [read_facts(s).loss_rule for s in sets] == [
        "assistant",
        "assistant_text",
        "assistant_speech",
    ]


def test_recordings_take_the_place_of_generated_speech(world, tmp_path):
    records = [
        CodeRecord(id=f"{name}/{turn:03d}", codes=np.arange(3 + turn))
        for name, turns in DIALOGUES.items()
        for turn in range(len(turns))
    ]
    write_code_shard(tmp_path / "codes" / "s.parquet", records, INFO)
    recorded = {"user_codes": (tmp_path / "codes",), "assistant_codes": (tmp_path / "codes",)}
    config = config_of(world, tmp_path, modes=("direct",), model=None, like=None, **recorded)
    result = build_dialogues(config)
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    first = np.array(documents_of(tmp_path / "set-direct")[0])
    assert vocab.tokens_to_codes(first[vocab.is_speech(first)]).tolist() == [
        *range(3), *range(4), *range(5), *range(6)
    ]  # fmt: skip
    assert result["datasets"]["direct"]["documents"] == 4


def test_the_model_speaks_what_recordings_lack(world, tmp_path):
    names = {"user": ("a/000", "b/000"), "assistant": ("a/001", "a/003", "b/001")}
    for role, ids in names.items():
        records = [CodeRecord(id=name, codes=np.arange(5)) for name in ids]
        records.append(CodeRecord(id=f"e/00{len(ids) - 2}", codes=np.arange(0)))  # heard nothing
        write_code_shard(tmp_path / role / "s.parquet", records, INFO)
    recorded = {f"{role}_codes": (tmp_path / role,) for role in names}
    config = config_of(world, tmp_path, modes=("direct",), **recorded)
    engine = LookUpEngine()
    result = build_dialogues(config, engine)
    asked = {role: found["requests"] for role, found in result["generation"].items()}
    assert asked == {"user": 3, "assistant": 2}  # a/002, d/000, e/000; d/001, e/001
    found = documents_of(tmp_path / "set-direct")
    assert len(found) == 3
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    spoken = [vocab.tokens_to_codes(d[vocab.is_speech(d)]).tolist() for d in map(np.array, found)]
    five = list(range(5))
    assert spoken[0] == [*five, *five, *look_up(DIALOGUES["a"][2]).tolist(), *five]
    assert spoken[1] == [*five, *five]
    assert spoken[2] == np.concatenate([look_up(text) for text in DIALOGUES["e"][:2]]).tolist()
    with pytest.raises(ConfigError, match=r"other settings \(user_codes\)"):
        build_dialogues(replace(config, user_codes=(tmp_path / "assistant",)), engine)


def test_with_recordings_of_all_turns_the_model_has_nothing_to_say(world, tmp_path):
    names = [f"{name}/{n:03d}" for name, turns in DIALOGUES.items() for n in range(len(turns))]
    records = [CodeRecord(id=name, codes=np.arange(5)) for name in names]
    write_code_shard(tmp_path / "codes" / "s.parquet", records, INFO)
    recorded = {"user_codes": (tmp_path / "codes",), "assistant_codes": (tmp_path / "codes",)}
    result = build_dialogues(config_of(world, tmp_path, modes=("direct",), **recorded))
    assert result["generation"] == {}
    assert result["datasets"]["direct"]["documents"] == 4


def test_a_stopped_job_ends_in_the_same_files(world, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    build_dialogues(config_of(world, whole), LookUpEngine())

    class Failing(LookUpEngine):
        calls = 0

        def generate(self, *arguments):
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().generate(*arguments)

    with pytest.raises(KeyboardInterrupt):
        build_dialogues(config_of(world, stopped), Failing())
    assert not (stopped / "set-direct.json").exists()
    monkeypatch.setattr(build, "speakable_dialogue", None)  # what was read is not read again
    build_dialogues(config_of(world, stopped), LookUpEngine())
    assert files_of(stopped) == files_of(whole)


def test_dialogues_end_before_they_are_too_long(world, tmp_path):
    vocab = SpeechTextVocab.from_pretrained(world / "vocab")
    config = config_of(world, tmp_path, modes=("direct",))
    whole = expected(vocab, config, "direct", DIALOGUES["a"])
    # a window of n holds n + 1 tokens: the last one is only predicted
    for seq_length, turns in ((len(whole) - 1, 4), (len(whole) - 2, 2)):
        output = tmp_path / str(seq_length)
        config = config_of(world, output, modes=("direct",), seq_length=seq_length)
        build_dialogues(config, LookUpEngine())
        found = documents_of(output / "set-direct")[0]
        assert found == expected(vocab, config, "direct", DIALOGUES["a"][:turns])


def test_lines_that_are_no_dialogues_are_set_aside(world, tmp_path):
    write_dialogues(
        tmp_path / "in.jsonl",
        {"a": ["Tom ran.", "Yes."]},
        "not json",
        json.dumps({"id": "x", "messages": [{"role": "assistant", "content": "Hello"}]}),
        json.dumps({"id": "a", "messages": [{"role": "user", "content": "Again"}]}),
        json.dumps({"id": "y", "messages": [{"role": "robot", "content": "Hi"}]}),
    )
    config = config_of(world, tmp_path, input=(str(tmp_path / "in.jsonl"),))
    result = build_dialogues(config, LookUpEngine())
    assert result["dialogues"]["dialogues"] == 1
    assert result["dialogues"]["rejected"] == {
        "duplicate_id": 1,
        "invalid_json": 1,
        "starts_with_assistant": 1,
        "unknown_role": 1,
    }


def test_nothing_usable_is_an_error(world, tmp_path):
    write_dialogues(tmp_path / "in.jsonl", {"c": DIALOGUES["c"]})
    with pytest.raises(DataError, match=r"no dialogue .* can be spoken: {'code': 1}"):
        build_dialogues(config_of(world, tmp_path, input=(str(tmp_path / "in.jsonl"),)))
    write_dialogues(tmp_path / "d.jsonl", {"d": DIALOGUES["d"]})
    config = config_of(world, tmp_path / "d", input=(str(tmp_path / "d.jsonl"),))
    with pytest.raises(DataError, match=r"no dialogue is left .*no_codes_of_question"):
        build_dialogues(config, LookUpEngine())


def test_codes_that_do_not_belong_are_refused(world, tmp_path):
    record = CodeRecord(id="a/000", codes=np.arange(3))
    wide = replace(INFO, num_codes=NUM_CODES * 2)
    other = replace(INFO, tokenizer_fingerprint="tok-b")
    write_code_shard(tmp_path / "wide" / "s.parquet", [record], wide)
    write_code_shard(tmp_path / "other" / "s.parquet", [record], other)
    write_code_shard(tmp_path / "twice" / "s.parquet", [record, record], INFO)
    for name, error, said in (
        ("wide", VocabularyError, "codebook of 128"),
        ("other", DataError, "different speech tokenizers"),
        ("twice", DataError, "'a/000' twice"),
    ):
        config = config_of(world, tmp_path / f"out-{name}", user_codes=(tmp_path / name,))
        with pytest.raises(error, match=said):
            build_dialogues(config, LookUpEngine())
    with pytest.raises(DataError, match="codes 0\\.\\.63"):
        write_code_shard(tmp_path / "x.parquet", [CodeRecord(id="a", codes=np.array([64]))], INFO)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": None, "like": None}, "nothing speaks the turns of user and assistant"),
        ({"model": None}, "belong together"),
        ({"modes": ()}, "at least one"),
        ({"modes": ("text", "text")}, "twice"),
        ({"seq_length": 0}, "at least 1"),
    ],
)
def test_impossible_settings_are_refused(world, tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        config_of(world, tmp_path, **changes)


def test_the_released_template_is_streaming_only(world, tmp_path):
    config = config_of(world, tmp_path, template=TemplateConfig(template="glm-4-voice"))
    with pytest.raises(ConfigError, match="streaming only, not text"):
        build_dialogues(config, LookUpEngine())
