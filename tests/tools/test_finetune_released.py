"""Fine-tuning of a released voice model as docs/finetune_glm4voice.md has it, by the public tools.

The model is random and narrow, but its files, vocabulary (168,960 rows) and speech tokenizer are in
the released layouts.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from megatron_speech.chat.engine import ChatEngine
from megatron_speech.chat.events import Done, TextDelta
from megatron_speech.chat.session import ChatConfig
from megatron_speech.chat.template import TemplateConfig
from megatron_speech.data.indexed_files import read_facts
from megatron_speech.text.vocab import SpeechTextVocab
from tests.interleaving.jobs import documents_of
from tests.model.released_folder import write_released
from tests.speech_tokenizer.conftest import noise
from tests.speech_tokenizer.released import encoder_only, make_released, write_weights
from tests.text.released_tokenizer import fill_ranks, lines, train_ranks
from tools import build_dialogues, convert_checkpoint, evaluate_chat, pretrain, tokenize_speech

ROWS, CODES, FIRST_CODE = 168_960, 16_384, 152_353
RATE_HZ = 16_000
DIALOGUES = {
    "d0": ("Where is the cat?", "In the garden."),
    "d1": ("Who has the key?", "Tom has it."),
    "d2": ("What is it?", "A boat."),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    write_recordings(folder)
    write_speech_tokenizer(folder / "speech_tokenizer")
    write_released(
        folder / "glm-4-voice-9b",
        ranks=fill_ranks(train_ranks(lines(400, seed=6), 1500)),
        codes=CODES,
        rows=ROWS,
        files=3,
    )
    return folder


def write_recordings(folder):
    """Questions of 1.2 s and answers of 2.4 s, and their words."""
    rows, dialogues = [], []
    for name, turns in DIALOGUES.items():
        for turn, text in enumerate(turns):
            path = folder / f"{name}-{turn}.wav"
            seed = len(rows)
            soundfile.write(path, noise(int(RATE_HZ * 1.2) * (turn + 1), seed), RATE_HZ)
            rows.append({"id": f"{name}/{turn:03d}", "path": path.name, "text": text})
        roles = zip(("user", "assistant"), turns, strict=True)
        messages = [{"role": role, "content": text} for role, text in roles]
        dialogues.append({"id": name, "messages": messages})
    asked = [row for row in rows if row["id"].endswith("000")]
    answered = [row for row in rows if row["id"].endswith("001")]
    graded = {"kind": "all", "wrong": [], "chance": 0.0}
    items = [{"id": n, "turns": [q], "answers": [a], **graded} for n, (q, a) in DIALOGUES.items()]
    for name, records in {
        "asked": asked,
        "answered": answered,
        "dialogues": dialogues,
        "items": items,
    }.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text)


def write_speech_tokenizer(folder):
    """The encoder alone, as released, with all 16,384 codes; 96 lie where the recordings are."""
    clips = [noise(48_000, seed) for seed in range(6)]
    made = make_released(folder, clips, quantize_encoder_only=True)
    tensors = encoder_only(made["tensors"], 2, "")
    near = tensors["codebook.weight"]
    far = 1e3 + torch.randn(CODES - len(near), near.size(1))
    tensors["codebook.weight"] = torch.cat([near, far])
    tensors["ema_weight"] = tensors["codebook.weight"].clone()
    tensors["ema_count"] = torch.ones(CODES)
    write_weights(folder, tensors)
    (folder / "config.json").write_text(json.dumps(made["config"] | {"quantize_vocab_size": CODES}))


def run(tool, command, folder):
    return tool.main([part.replace("@", str(folder)) for part in command.split()])


@pytest.fixture(scope="module")
def tuned(folder):
    """Every stage of the page, one after the other."""
    for name in ("asked", "answered"):
        run(
            tokenize_speech,
            f"--input @/{name}.jsonl --speech-tokenizer @/speech_tokenizer --output @/codes/{name}",
            folder,
        )
    imported = run(convert_checkpoint, "hf-to-megatron --hf @/glm-4-voice-9b --save @/base", folder)
    built = run(
        build_dialogues,
        "--input @/dialogues.jsonl --vocab @/base/vocab --user-codes @/codes/asked "
        "--assistant-codes @/codes/answered --modes streaming --template glm-4-voice "
        "--seq-length 256 --output-prefix @/data/set",
        folder,
    )
    run(
        pretrain,
        "sft-smoke --pretrained-checkpoint @/base --save @/sft --data-path 1 @/data/set-streaming "
        "--train-iters 8 --lr 1e-2 --min-lr 1e-2 --lr-warmup-iters 1 --global-batch-size 2 "
        "--micro-batch-size 1 --eval-iters 1 --split 67,33",
        folder,
    )
    run(convert_checkpoint, "megatron-to-hf --load @/base --hf @/base-hf", folder)
    run(convert_checkpoint, "megatron-to-hf --load @/sft --hf @/sft-hf", folder)
    results = {
        name: run(
            evaluate_chat,
            f"--model @/{name}-hf --speech-tokenizer @/speech_tokenizer --items @/items.jsonl "
            f"--questions @/codes/asked --modes streaming --template glm-4-voice "
            f"--max-new-tokens 40 --output @/{name}.json",
            folder,
        )
        for name in ("base", "sft")
    }
    return SimpleNamespace(imported=imported, built=built, results=results)


def test_the_vocabulary_is_the_released_one(folder, tuned):
    vocab = SpeechTextVocab.from_pretrained(folder / "sft-hf")
    assert (vocab.code_offset, vocab.num_codes) == (FIRST_CODE, CODES)
    assert vocab.text.id_of("<|user|>") == 151_336
    assert vocab.begin_of_audio_id == 151_343
    assert (vocab.base_rows, vocab.padded_size, vocab.added) == (ROWS, ROWS, ())
    assert tuned.imported.added_rows == 0
    config = json.loads((folder / "sft-hf" / "config.json").read_text())
    assert (config["model_type"], config["vocab_size"]) == ("glm", ROWS)
    assert config["eos_token_id"] == [151_329, 151_336, 151_338]


def test_documents_are_what_the_released_tokenizer_reads(folder, tuned):
    vocab = SpeechTextVocab.from_pretrained(folder / "base" / "vocab")
    documents = documents_of(folder / "data" / "set-streaming")
    assert len(documents) == len(DIALOGUES)
    first = vocab.text.decode(documents[0])
    assert first.startswith("[gMASK]<sop><|system|>\nUser will provide you with a speech")
    assert "26 audio tokens. <|user|>\n<|begin_of_audio|><|audio_" in first
    assert "<|end_of_audio|><|assistant|>streaming_transcription\nIn the garden.<|audio_" in first
    assert first.endswith("|><|user|><|endoftext|>")
    assert read_facts(folder / "data" / "set-streaming").loss_rule == "assistant"


def test_the_fine_tuned_model_says_what_it_was_taught(folder, tuned):
    """Three short answers: eight steps suffice, and the base knew none of them."""
    metrics = [json.loads(line) for line in (folder / "sft" / "metrics.jsonl").open()]
    losses = [record["lm loss"] for record in metrics if "lm loss" in record]
    assert losses[-1] < losses[0]
    for found in tuned.results.values():
        assert found["modes"]["streaming"]["s2t"]["all"]["n"] == len(DIALOGUES)
        assert "s2s" not in found["modes"]["streaming"]  # the tokenizer ends at its quantizer


def test_it_can_be_talked_to(folder, tuned):
    config = ChatConfig(max_new_tokens=45, template=TemplateConfig(template="glm-4-voice"))
    tokenizer = folder / "speech_tokenizer"
    engine = ChatEngine.from_folders(folder / "sft-hf", tokenizer, None, config)
    session = engine.session()
    events = list(session.respond(noise(RATE_HZ, seed=9)))
    assert isinstance(events[-1], Done)
    assert any(isinstance(event, TextDelta) for event in events)
    codes = session.history[-1].codes
    assert len(codes)
    assert np.max(codes) < CODES


def test_it_goes_back_to_the_released_layout(folder, tuned):
    run(
        convert_checkpoint,
        "megatron-to-hf --load @/base --hf @/released --chatglm @/glm-4-voice-9b",
        folder,
    )
    for path in (folder / "glm-4-voice-9b").iterdir():
        if path.suffix != ".py":
            assert (folder / "released" / path.name).read_bytes() == path.read_bytes(), path.name
