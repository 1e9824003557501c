import pytest

from megatron_speech.data import templates
from tests.interleaving.samples import make_vocab


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    return make_vocab(tmp_path_factory.mktemp("vocab"))


def spell(vocab, tokens):
    return vocab.text.decode(tokens.tolist())


def test_each_kind_reads_as_documented(vocab):
    text, codes = vocab.text.encode("The cat."), [0, 63]
    spoken = "<|begin_of_audio|><|audio_0|><|audio_63|><|end_of_audio|>"
    assert spell(vocab, templates.text_document(vocab, text)) == "The cat.<|endoftext|>"
    assert spell(vocab, templates.speech_document(vocab, codes)) == f"{spoken}<|endoftext|>"
    asr = templates.asr_document(vocab, codes, text)
    assert spell(vocab, asr) == f"{spoken}<|transcribe|>The cat.<|endoftext|>"
    tts = templates.tts_document(vocab, text, codes)
    assert spell(vocab, tts) == f"<|speak|>The cat.{spoken}<|endoftext|>"


def test_a_prompt_is_the_beginning_of_its_document(vocab):
    text, codes = vocab.text.encode("a dog"), [5, 6, 7]
    prompt = templates.speak_prompt(vocab, text)
    assert templates.tts_document(vocab, text, codes)[: len(prompt)].tolist() == prompt.tolist()
    prompt = templates.transcribe_prompt(vocab, codes)
    assert templates.asr_document(vocab, codes, text)[: len(prompt)].tolist() == prompt.tolist()


def test_only_prompted_kinds_are_packed_whole():
    whole = {name for name, kind in templates.KINDS.items() if kind.packing == "whole"}
    dialogues = {name for name in templates.KINDS if name.startswith("dialogue_")}
    assert dialogues
    assert whole == {"asr", "tts", "text_to_token", "preference"} | dialogues
    assert templates.KINDS["text_to_token"].loss_rule == "speech_after_text"
