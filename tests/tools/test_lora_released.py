"""LoRA on a model in the layout of the released GLM-4-Voice: in, tuned, and out in three forms."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from megatron_speech.data.code_shards import CodeRecord, CodeShardInfo, write_code_shard
from megatron_speech.text.vocab import SpeechTextVocab
from megatron_speech.training.parallel_config import ParallelConfig
from tests.model.base_world import TOKENS, megatron_logits
from tests.model.released_folder import write_released
from tools import build_dialogues, convert_checkpoint, pretrain

CODES = 64
DIALOGUES = {"d0": ("Where is it?", "In the garden."), "d1": ("Who has it?", "Tom has the key.")}


def run(tool, command, folder):
    return tool.main([part.replace("@", str(folder)) for part in command.split()])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two spoken dialogues in the released format, four steps on them, and every export."""
    folder = tmp_path_factory.mktemp("released")
    write_released(folder / "released", codes=CODES, dtype=torch.float32, seq_length=512)
    write_dialogues(folder)
    run(convert_checkpoint, "hf-to-megatron --hf @/released --save @/base", folder)
    run(
        build_dialogues,
        "--input @/dialogues.jsonl --vocab @/base/vocab --user-codes @/codes "
        "--assistant-codes @/codes --modes streaming --template glm-4-voice --seq-length 512 "
        "--output-prefix @/set",
        folder,
    )
    run(
        pretrain,
        "sft-smoke --pretrained-checkpoint @/base --save @/run --data-path 1 @/set-streaming "
        "--valid-data-path 1 @/set-streaming --seq-length 512 --train-iters 4 --lr 2e-2 "
        "--min-lr 2e-2 --lr-warmup-iters 1 --global-batch-size 2 --micro-batch-size 1 "
        "--eval-iters 1 --log-interval 1 --lora-rank 4 --lora-alpha 8 --lora-train-embedding",
        folder,
    )
    for load, hf, form in (
        ("base", "base-glm", ""),
        ("run", "glm", ""),
        ("run", "chatglm", "--chatglm @/released"),
        ("run", "peft", "--lora adapters --base-hf @/base-glm"),
    ):
        run(convert_checkpoint, f"megatron-to-hf --load @/{load} --hf @/{hf} {form}", folder)
    return folder


def write_dialogues(folder):
    generator = np.random.default_rng(0)
    records, lines = [], []
    for name, turns in DIALOGUES.items():
        roles = zip(("user", "assistant"), turns, strict=True)
        messages = [{"role": role, "content": text} for role, text in roles]
        lines.append(json.dumps({"id": name, "messages": messages}) + "\n")
        for turn in range(2):
            codes = generator.integers(0, CODES, 20 + 40 * turn)
            records.append(CodeRecord(id=f"{name}/{turn:03d}", codes=codes))
    (folder / "dialogues.jsonl").write_text("".join(lines))
    info = CodeShardInfo(frame_rate_hz=12.5, num_codes=CODES, tokenizer_fingerprint="codes-a")
    write_code_shard(folder / "codes" / "a.parquet", records, info)


def model_of(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def logits_of(model):
    with torch.no_grad():
        return model(TOKENS).logits


def test_merged_is_what_peft_makes_of_the_base(folder):
    base, merged = model_of(folder / "base-glm"), logits_of(model_of(folder / "glm"))
    before = logits_of(base)
    apart = logits_of(PeftModel.from_pretrained(base, str(folder / "peft")))
    assert (merged - before).abs().max() > 0.1
    assert (merged - apart).abs().max() <= 1e-5 * merged.abs().max()


def test_the_released_layout_is_a_base_again_with_the_same_logits(folder):
    released = {path.name for path in (folder / "released").iterdir() if path.suffix != ".py"}
    written = {path.name for path in (folder / "chatglm").iterdir()}
    assert written - released == {"speech_text_vocab.json"}
    done = run(convert_checkpoint, "hf-to-megatron --hf @/chatglm --save @/again", folder)
    assert done.vocab.fingerprint == SpeechTextVocab.from_pretrained(folder / "glm").fingerprint
    merged = logits_of(model_of(folder / "glm"))
    rows = merged.size(-1)
    found = megatron_logits(folder / "again", ParallelConfig(), rows)
    assert (found[..., :rows] - merged).abs().max() <= 1e-5 * merged.abs().max()


def test_rows_of_codes_alone_are_trained_in_the_tables(folder):
    vocab = SpeechTextVocab.from_pretrained(folder / "glm")
    codes = slice(vocab.code_offset, vocab.code_offset + CODES)
    before, after = (load_file(folder / f / "model.safetensors") for f in ("base-glm", "glm"))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        changed = (before[name] != after[name]).any(1)
        assert changed[codes].all()
        changed[codes] = False
        assert not changed.any()
