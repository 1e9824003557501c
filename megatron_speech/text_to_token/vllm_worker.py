"""What runs in vLLM's own environment: prompts of token ids in, generated ids out.

Started by vllm_engine.py as a script; imports nothing of this package, because the environment has
another torch. Lines of JSON on stdin and stdout: first the settings, answered by vLLM's version
when the model is loaded; then one request per call. It ends with its stdin.
"""

import json
import os
import sys
from typing import Any


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with answers

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    settings = json.loads(sys.stdin.readline())
    engine = load(settings)
    import vllm

    answer({"version": vllm.__version__})
    for line in sys.stdin:
        answer(generate(engine, settings, json.loads(line)))
    os._exit(0)  # nothing is left to save, and vLLM takes its time to go


def load(settings: dict[str, Any]) -> Any:
    """The engine. Nothing in it depends on free memory or on requests that came before."""
    import torch
    from vllm import LLM

    return LLM(
        settings["model"],
        trust_remote_code=False,
        load_format="safetensors",
        dtype=settings["dtype"],
        max_num_seqs=settings["batch_size"],
        max_model_len=settings["positions"],
        kv_cache_memory_bytes=settings["cache_bytes"],
        logits_processors=[codes_only(settings)],
        enable_prefix_caching=False,
        enforce_eager=not torch.cuda.is_available(),
        skip_tokenizer_init=True,
        disable_log_stats=True,
        seed=0,
    )


def codes_only(settings: dict[str, Any]) -> type:
    """A logits processor that leaves codes and end of audio to choose from."""
    import torch
    from vllm.v1.sample.logits_processor import LogitsProcessor

    first, count, end = (settings[key] for key in ("first_code", "num_codes", "end_token"))

    class CodesOnly(LogitsProcessor):
        def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool):
            size = vllm_config.model_config.get_vocab_size()
            self._forbidden = torch.ones(size, dtype=torch.bool, device=device)
            self._forbidden[first : first + count] = False
            self._forbidden[end] = False

        def apply(self, logits: Any) -> Any:
            return logits.masked_fill_(self._forbidden, float("-inf"))

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: Any) -> None:
            pass

    return CodesOnly


def generate(engine: Any, settings: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """Ids of each prompt's continuation; end of audio, where it came, is the last."""
    from vllm import SamplingParams

    parameters = [
        SamplingParams(
            temperature=settings["temperature"],
            max_tokens=most,
            seed=seed,
            stop_token_ids=[settings["end_token"]],
            ignore_eos=True,
            detokenize=False,
        )
        for most, seed in zip(request["most"], request["seeds"], strict=True)
    ]
    prompts = [{"prompt_token_ids": ids} for ids in request["prompts"]]
    outputs = engine.generate(prompts, parameters, use_tqdm=False)
    return {"ids": [list(output.outputs[0].token_ids) for output in outputs]}


if __name__ == "__main__":
    main()
