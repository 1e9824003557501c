"""Training steps of tokenizer-debug with either attention, in either precision, on this CPU.

    python benchmarks/attention.py

Behind `--attention auto` of the speech tokenizer: sdpa for fp32, eager for bf16. Then whole steps,
AdamW with them, as they are now against sdpa and torch's default AdamW. Counted in core-seconds;
the losses of both must agree before times are shown, of whole steps over ten of them.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from time import process_time
from typing import Any

import torch
from common import report, sized, time_pair

from megatron_speech.recipes.speech_tokenizer import tokenizer_debug
from megatron_speech.speech_tokenizer.model import SpeechTokenizerModel

CLIPS, MEL_FRAMES, TOKENS, VOCABULARY = 16, sized(400, 64), 24, 340


def main() -> None:
    torch.set_num_threads(1)
    config = replace(tokenizer_debug().model, vocab_size=VOCABULARY)
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(CLIPS, config.num_mel_bins, MEL_FRAMES, generator=generator)
    lengths = torch.full((CLIPS,), MEL_FRAMES)
    tokens = torch.randint(VOCABULARY, (CLIPS, TOKENS), generator=generator)
    sdpa, eager = (SpeechTokenizerModel(config, name) for name in ("sdpa", "eager"))
    eager.load_state_dict(sdpa.state_dict())

    def step(model: SpeechTokenizerModel, bf16: bool) -> float:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(mel, lengths, tokens).logits.float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        loss.backward()
        return loss.item()

    def bound(model: SpeechTokenizerModel, bf16: bool) -> Callable[[], float]:
        return lambda: step(model, bf16)

    figures: dict = {"clips": CLIPS, "mel_frames": MEL_FRAMES}
    for precision in ("fp32", "bf16"):
        ours, peer = (bound(model, precision == "bf16") for model in (sdpa, eager))
        losses = ours(), peer()
        if abs(losses[0] - losses[1]) > (1e-2 if precision == "bf16" else 1e-4) * losses[1]:
            raise SystemExit(f"{precision}: losses differ: {losses}; no times are shown")
        pair = time_pair(ours, peer, clock=process_time)
        figures |= {f"{precision}_sdpa_core_s": pair["ours_s"]}
        figures |= {f"{precision}_eager_core_s": pair["peer_s"]}
        figures |= {f"{precision}_eager_over_sdpa": pair["speedup"]}
        figures |= {f"{precision}_eager_over_sdpa_range": pair["speedup_range"]}
        now = copy.deepcopy(eager if precision == "bf16" else sdpa)
        figures |= whole_steps(now, copy.deepcopy(sdpa), precision, bound)
    figures["amx"] = torch.cpu._is_amx_tile_supported()
    report("attention_cpu", "the other attention", figures)


def whole_steps(
    ours: SpeechTokenizerModel,
    peer: SpeechTokenizerModel,
    precision: str,
    bound: Callable[..., Any],
) -> dict[str, Any]:
    """Figures of steps with fused AdamW, and of those with the default one."""
    trained = []
    for model, fused in ((ours, True), (peer, None)):
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=1e-3, fused=fused)
        forward = bound(model, precision == "bf16")

        def step(forward=forward, optimizer=optimizer) -> float:
            loss = forward()
            optimizer.step()
            return loss

        trained.append(step)
    for number in range(sized(10, 2)):
        losses = [step() for step in trained]
        if abs(losses[0] - losses[1]) > (5e-2 if precision == "bf16" else 1e-3) * losses[1]:
            raise SystemExit(f"{precision}: losses of step {number} differ: {losses}")
    pair = time_pair(*trained, clock=process_time)
    return {
        f"{precision}_whole_step_core_s": pair["ours_s"],
        f"{precision}_default_adamw_over_ours": pair["speedup"],
        f"{precision}_default_adamw_over_ours_range": pair["speedup_range"],
    }


if __name__ == "__main__":
    main()
