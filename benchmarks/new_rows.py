"""What first values of new rows do to a base model: to its text at once, and to a training's start.

    python benchmarks/new_rows.py --base smollm2-135m --text novels.jsonl

For a base with tied tables, and for the same with its output layer stored apart: import with rows
fitted to the built-in text, or drawn plainly at each of --scales, and export. Then

- the loss of windows of text by transformers, of the base and of the export, and what share of the
  probability and of the likeliest tokens falls to new ones;
- trained for some steps on text in which half the spans are codes: the losses of text and codes on
  held-out documents. The codes are a stand-in for speech: each letter of a word with its neighbours
  stands for one of 16,384 codes, so that there is something to learn about each.
"""

import json
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from common import report
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from megatron_speech.jobs import cli
from megatron_speech.model.base_model import ImportConfig, import_base
from megatron_speech.model.hf import export_checkpoint
from megatron_speech.model.new_rows import NewRowsConfig
from megatron_speech.text.vocab import SpeechTextVocab


@dataclass(frozen=True, kw_only=True)
class NewRowsBenchmark:
    """What is imported, and how much is measured."""

    base: Path
    """Folder of a base model with tied tables."""
    text: Path
    """JSON lines with text, one document each: the last are held out."""
    num_codes: int = 16_384
    """Codes to add."""
    scales: tuple[float, ...] = (1.0, 0.5, 0.25)
    """Plain draws beside the fitted one."""
    untied: bool = True
    """Measure the untied copy too."""
    window: int = 256
    """Tokens of a window."""
    windows: int = 50
    """Windows of text for the loss."""
    steps: int = 20
    """Training steps of two windows each; 0 for none."""
    eval_interval: int = 10
    """Steps between evaluations."""
    eval_windows: int = 8
    """Held-out windows of text and codes."""
    documents: int = 40
    """To train on, from the start of --text, and as many to measure on, from its end."""
    threads: int = 1
    """Of torch."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    config = cli.parse(NewRowsBenchmark, argv, __doc__ or "")
    torch.set_num_threads(config.threads)
    documents = [json.loads(line)["text"] for line in config.text.read_text().splitlines()]
    documents = [" ".join(text.split()) for text in documents]
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        bases = {"tied": config.base}
        if config.untied:
            bases["untied"] = store_output_apart(config.base, Path(folder) / "untied")
        for name, base in bases.items():
            vocab = SpeechTextVocab.extend(base, config.num_codes)
            windows = text_windows(config, vocab, documents)
            figures[name] = {"base": text_loss(load(base), windows, vocab.text.size)}
            for scale in (None, *config.scales):
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    found = measure(config, base, scale, documents, Path(place))
                figures[name]["fitted" if scale is None else f"scale {scale:g}"] = found
                print(name, scale, found, flush=True)
    report("new_rows", "transformers on the base model", figures)
    return figures


def measure(
    config: NewRowsBenchmark, base: Path, scale: float | None, documents: list[str], folder: Path
) -> dict[str, Any]:
    """Import, export, text loss and start of one draw."""
    rows = NewRowsConfig(new_rows_scale=scale)
    done = import_base(
        ImportConfig(hf=base, save=folder / "run", num_codes=config.num_codes, new_rows=rows)
    )
    export_checkpoint(folder / "run", folder / "hf")
    assert done.text_loss is not None
    model = load(folder / "hf")
    windows = text_windows(config, done.vocab, documents)
    found = {
        "import": asdict(done.text_loss),
        "exported": text_loss(model, windows, done.vocab.text.size),
    }
    if config.steps:
        found["trained"] = start(config, model, done.vocab, documents)
    return found


def store_output_apart(base: Path, folder: Path) -> Path:
    """The same model with an output layer of its own, a copy of its embedding."""
    folder.mkdir()
    for path in base.iterdir():
        if path.is_file() and path.name not in ("model.safetensors", "config.json"):
            (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((base / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def text_windows(
    config: NewRowsBenchmark, vocab: SpeechTextVocab, documents: list[str]
) -> torch.Tensor:
    """(windows, length) token ids of text alone."""
    ids = [token for text in documents[-config.documents :] for token in vocab.text.encode(text)]
    return torch.tensor(ids[: config.windows * config.window]).view(config.windows, config.window)


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.inference_mode()
def text_loss(model: Any, windows: torch.Tensor, text: int) -> dict[str, float]:
    """Loss in nats, and what tokens from id `text` on get of it."""
    loss, share, likeliest, count = 0.0, 0.0, 0, 0
    for window in windows:
        logits = model(window[None]).logits[0, :-1].float().log_softmax(-1)
        loss -= logits.gather(1, window[1:, None]).sum().item()
        share += logits[:, text:].exp().sum().item()
        likeliest += int((logits.argmax(-1) >= text).sum())
        count += len(logits)
    return {"loss": loss / count, "share": share / count, "likeliest": likeliest / count}


def interleaved(
    vocab: SpeechTextVocab, documents: list[str], seed: int, length: int
) -> torch.Tensor:
    """(windows, length) of text in which every second run of ten words is codes."""
    ids: list[int] = []
    for number, text in enumerate(documents):
        words = text.split()
        for first in range(0, len(words), 10):
            run = words[first : first + 10]
            if (first // 10 + number + seed) % 2:
                ids += vocab.text.encode(" " + " ".join(run))
            else:
                ids += vocab.speech_segment(
                    [code for word in run for code in codes_of(word, vocab.num_codes)]
                ).tolist()
        ids.append(vocab.eod_id)
    count = len(ids) // length
    return torch.tensor(ids[: count * length]).view(count, length)


def codes_of(word: str, num_codes: int) -> list[int]:
    """A code for each letter, told by its neighbours."""
    marked = f"^{word.lower()}$"
    return [zlib.crc32(marked[i : i + 3].encode()) % num_codes for i in range(len(word))]


def losses(model: Any, vocab: SpeechTextVocab, windows: torch.Tensor) -> dict[str, float]:
    """Mean loss of text tokens and of codes."""
    sums: dict[str, tuple[float, int]] = dict.fromkeys(("text", "codes"), (0.0, 0))
    for window in windows:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            logits = model(window[None]).logits[0, :-1]
        lost = torch.nn.functional.cross_entropy(logits.float(), window[1:], reduction="none")
        codes = torch.from_numpy(vocab.is_speech(window[1:].numpy()))
        for name, mask in (("text", window[1:] < vocab.text.size), ("codes", codes)):
            total, count = sums[name]
            sums[name] = (total + lost[mask].sum().item(), count + int(mask.sum()))
    return {name: total / count for name, (total, count) in sums.items()}


def start(
    config: NewRowsBenchmark, model: Any, vocab: SpeechTextVocab, documents: list[str]
) -> dict[str, Any]:
    """Losses on held-out windows while the model with its new rows is trained."""
    train = interleaved(vocab, documents[: config.documents], 0, config.window)
    held_out = interleaved(vocab, documents[-2:], 1, config.window)[: config.eval_windows]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    found = {"0": losses(model, vocab, held_out)}
    for step in range(config.steps):
        batch = train[order[2 * step : 2 * step + 2]]
        for group in optimizer.param_groups:
            group["lr"] = 5e-4 * min((step + 1) / 10, 1.0)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), batch[:, 1:].flatten()
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % config.eval_interval == 0:
            found[str(step + 1)] = losses(model, vocab, held_out)
            print(step + 1, found[str(step + 1)], flush=True)
    return found


if __name__ == "__main__":
    cli.run(main)
