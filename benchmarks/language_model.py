"""Training steps of lm-debug through Megatron-Core, against a plain PyTorch loop of the same model
and against `megatron.training` of the same wheel.

    python benchmarks/language_model.py            (fp32)
    python benchmarks/language_model.py --bf16     (on a CPU with bf16 units)

The peer is transformers' LlamaForCausalLM of the same shape with AdamW, on the same windows. Their
losses on the first window must agree before times are shown.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import report, time_pair, word_vocabulary
from megatron_step import megatron_train_step
from transformers import LlamaForCausalLM

from megatron_speech.data.indexed import IndexedWriter
from megatron_speech.model.hf import export_checkpoint
from megatron_speech.recipes import lm
from megatron_speech.training.loop import train
from megatron_speech.training.megatron.batch import read_batch


def main() -> None:
    bf16 = "--bf16" in sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        config = _config(Path(folder), bf16)
        lm.pretrain(replace(config, loop=replace(config.loop, train_iters=1)))
        hf = Path(folder) / "hf"
        export_checkpoint(config.loop.save, hf)
        peer = LlamaForCausalLM.from_pretrained(hf, dtype=torch.float32)
        optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-4)
        with lm.build(config) as trainer:
            train(trainer, replace(config.loop, train_iters=1))  # takes the peer's weights
            size, windows = trainer.samples_per_step, trainer.data.train
            batch = read_batch(windows, range(size), torch.device("cpu"), False)

            def peer_step() -> float:
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    logits = peer(batch.tokens).logits
                loss = torch.nn.functional.cross_entropy(
                    logits.float().flatten(0, 1), batch.labels.flatten()
                )
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
                optimizer.step()
                return loss.item()

            ours, theirs = trainer.train_step(0)["lm loss"], peer_step()
            if abs(ours - theirs) > (1e-2 if bf16 else 1e-4) * theirs:
                raise SystemExit(f"losses differ: {ours} and {theirs}; no times are shown")
            figures = time_pair(lambda: trainer.train_step(0), peer_step)
            with megatron_train_step(trainer, config) as megatron_step:
                beside = time_pair(lambda: trainer.train_step(0), lambda: megatron_step(0))
            figures |= {f"megatron_training_{k}": beside[k] for k in ("speedup", "speedup_range")}
    tokens = size * config.data.seq_length
    figures |= {"loss_ours": ours, "loss_peer": theirs, "precision": "bf16" if bf16 else "fp32"}
    figures["ours_tokens_per_s"] = tokens / figures["ours_s"]
    figures["peer_tokens_per_s"] = tokens / figures["peer_s"]
    name = "language_model_bf16" if bf16 else "language_model"
    report(name, "a plain PyTorch loop over transformers' Llama", figures)


def _config(folder: Path, bf16: bool) -> lm.LMConfig:
    # 1,529 words, 7 specials and 512 codes: no padding, which an export would cut off
    vocab = word_vocabulary(folder / "text", 1_529, 512)
    assert vocab.size == vocab.padded_size
    vocab.save_pretrained(folder / "vocab")
    with IndexedWriter(folder / "data", vocab) as writer:
        tokens = np.random.default_rng(0).integers(0, vocab.size, 200_000)
        writer.add(tokens, np.full(2_000, 100))
    writer.write_facts("text", None, {})
    debug = lm.lm_debug()
    return replace(
        debug,
        data=replace(
            debug.data,
            vocab=folder / "vocab",
            data_path=(str(folder / "data"),),
            reset_attention_mask=False,  # the peers know no documents
        ),
        batch=replace(debug.batch, lr_warmup_iters=0),
        precision=replace(debug.precision, bf16=bf16),
        loop=replace(debug.loop, save=folder / "run", tensorboard=False, eval_interval=0),
    )


if __name__ == "__main__":
    main()
