"""Exports of every family load in vLLM, in the environment that `make test-vllm` builds."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_speech.model.base_model import ImportConfig, import_base
from megatron_speech.model.hf import export_checkpoint
from megatron_speech.text.vocab import SpeechTextVocab
from tests.model.base_folders import FAMILIES, write_base

pytestmark = pytest.mark.vllm

PYTHON = Path(os.environ.get("VLLM_PYTHON", ".venv-vllm/bin/python")).absolute()
PROMPT, LENGTH = [3, 1, 4, 1, 5, 9, 2, 6], 12
# Widths that vLLM's kernels take.
WIDE = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64}
GENERATE = """
import json, sys
from vllm import LLM, SamplingParams
folder, prompt, length = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
model = LLM(folder, dtype="float32", max_model_len=64, enforce_eager=True)
sampling = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True, detokenize=False)
made = model.generate([{"prompt_token_ids": prompt}], sampling, use_tqdm=False)
print("\\n" + json.dumps(list(made[0].outputs[0].token_ids)))
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_vllm_goes_on_as_transformers_does(family, tmp_path):
    assert PYTHON.exists(), f"{PYTHON} is missing; run make test-vllm, or set VLLM_PYTHON"
    write_base(tmp_path / "base", family, tied=False, **WIDE)
    import_base(ImportConfig(hf=tmp_path / "base", save=tmp_path / "run", num_codes=64))
    export_checkpoint(tmp_path / "run", tmp_path / "hf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        for _ in range(LENGTH):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    command = [PYTHON, "-P", "-c", GENERATE, tmp_path / "hf", json.dumps(PROMPT), str(LENGTH)]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    made = json.loads(done.stdout.strip().splitlines()[-1])
    assert made == ids[0, len(PROMPT) :].tolist()
    assert max(made) < SpeechTextVocab.from_pretrained(tmp_path / "hf").size
