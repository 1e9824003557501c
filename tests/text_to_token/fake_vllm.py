"""Stands in for vLLM's Python: a `vllm` whose model writes a code per prompt token, then stops."""

import sys
import types
from pathlib import Path

FIRST_CODE, NUM_CODES, END = 407, 64, 401


class LLM:
    def __init__(self, model, **settings):
        assert settings["enable_prefix_caching"] is False
        assert settings["trust_remote_code"] is False
        assert settings["load_format"] == "safetensors"
        print("noise that must not reach the answers", flush=True)

    def generate(self, prompts, parameters, use_tqdm):
        return [
            self._one(p["prompt_token_ids"], q) for p, q in zip(prompts, parameters, strict=True)
        ]

    def _one(self, ids, parameters):
        if 666 in ids:
            sys.exit("out of memory, said the fake")
        codes = [FIRST_CODE + (sum(ids) + n + parameters.seed) % NUM_CODES for n in ids]
        found = [*codes, END][: parameters.max_tokens]
        return types.SimpleNamespace(outputs=[types.SimpleNamespace(token_ids=found)])


class SamplingParams:
    def __init__(self, **values):
        vars(self).update(values)


if __name__ == "__main__":
    vllm = types.ModuleType("vllm")
    vllm.LLM, vllm.SamplingParams, vllm.__version__ = LLM, SamplingParams, "fake"
    processor = types.ModuleType("vllm.v1.sample.logits_processor")
    processor.LogitsProcessor = object
    torch = types.ModuleType("torch")
    torch.cuda = types.SimpleNamespace(is_available=lambda: False)
    sys.modules |= {"vllm": vllm, "vllm.v1.sample.logits_processor": processor, "torch": torch}
    sys.modules |= {name: types.ModuleType(name) for name in ("vllm.v1", "vllm.v1.sample")}
    worker = Path(sys.argv[-1])
    exec(compile(worker.read_text(), str(worker), "exec"), {"__name__": "__main__"})
