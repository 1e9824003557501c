"""What first values of new rows do to a base model: to its text at once, and to a training's start.

    python benchmarks/new_rows.py --base runs/real/smollm2-135m --text runs/real/novels.jsonl

Three comparisons, for a base with tied tables and for the same with its output layer stored apart:

- import and export: the loss of 50 windows of text by transformers on the base, and on the exported
  model whose rows of codes are new;
- untrained: the rise of that loss at several scales of the draw, and what share of the probability
  and of the likeliest tokens falls to new ones;
- trained for some steps on text in which half the spans are codes: the losses of text and codes on
  held-out documents. The codes are a stand-in for speech: each letter of a word with its neighbours
  stands for one of 16,384 codes, so that there is something to learn about each.
"""

import argparse
import json
import tempfile
import zlib
from pathlib import Path
from typing import Any

import torch
from common import report
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from megatron_speech.model.base_model import ImportConfig, import_base
from megatron_speech.model.hf import export_checkpoint
from megatron_speech.model.new_rows import NewRowsConfig, RowDraw
from megatron_speech.vocab import SpeechTextVocab

NUM_CODES = 16_384
SCALES = (0.0, 0.5, 0.7, 1.0)
STARTS = ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0))
"""Scales of the embedding and of the output layer; tied, they are one table."""
UNTIED_STARTS = ((0.5, 0.5), (1.0, 1.0), (1.0, 0.5))
WINDOW, HELD_OUT = 256, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="JSON lines with text")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", choices=("text", "start"), default=None)
    given = parser.parse_args()
    documents = [json.loads(line)["text"] for line in given.text.read_text().splitlines()]
    documents = [" ".join(text.split()) for text in documents]
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        untied = store_output_apart(given.base, Path(folder) / "untied")
        for name, base in (("tied", given.base), ("untied", untied)):
            vocab = SpeechTextVocab.extend(base, NUM_CODES)
            if given.only != "start":
                windows = text_windows(vocab, documents[-40:])
                figures[name] = import_and_export(base, windows, Path(folder) / name)
                if name == "tied":  # the copy has the same rows
                    figures[name]["untrained"] = untrained(base, vocab, windows)
            if given.only != "text":
                starts = STARTS if name == "tied" else UNTIED_STARTS
                figures.setdefault(name, {})["trained"] = {
                    f"{scales[0]:g}, {scales[1]:g}": start(
                        base, vocab, scales, documents, given.steps
                    )
                    for scales in starts
                }
    report("new_rows", "transformers on the base model", figures)


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


def text_windows(vocab: SpeechTextVocab, documents: list[str]) -> torch.Tensor:
    """(50, 256) token ids of text alone."""
    ids = [token for text in documents for token in vocab.text.encode(text)]
    return torch.tensor(ids[: HELD_OUT * WINDOW]).view(HELD_OUT, WINDOW)


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


def import_and_export(base: Path, windows: torch.Tensor, folder: Path) -> dict[str, Any]:
    """Text loss before, and after import with codes and export, by transformers."""
    done = import_base(ImportConfig(hf=base, save=folder / "run", num_codes=NUM_CODES))
    export_checkpoint(folder / "run", folder / "hf")
    text = done.vocab.text.size
    before, after = (
        text_loss(load(base), windows, text),
        text_loss(load(folder / "hf"), windows, text),
    )
    assert done.text_loss is not None
    if abs(after["loss"] - before["loss"]) > 0.01:
        raise SystemExit(f"the export does not say what the base says: {before}, {after}")
    return {"base": before["loss"], "exported": after, "scale": done.text_loss.scale}


def with_new_rows(base: Path, vocab: SpeechTextVocab, scales: tuple[float, float]) -> Any:
    """The base with rows for specials and codes, by transformers."""
    model = load(base)
    tied = model.config.tie_word_embeddings
    model.resize_token_embeddings(vocab.size, mean_resizing=False)
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    text = vocab.text.size
    for number, (table, scale) in enumerate(zip(tables, scales, strict=True)):
        if tied and number:
            continue
        old = table.detach()[:text].clone()
        draw = RowDraw(NewRowsConfig(), old.__getitem__, text, vocab.size - text, number)
        with torch.no_grad():
            table[text:] = draw.rows(scale)
    return model


def untrained(base: Path, vocab: SpeechTextVocab, windows: torch.Tensor) -> dict[str, Any]:
    """What each scale does to the text."""
    found = {}
    for scale in SCALES:
        model = with_new_rows(base, vocab, (scale, scale))
        found[f"{scale:g}"] = text_loss(model, windows, vocab.text.size)
        print(scale, found[f"{scale:g}"], flush=True)
    return found


def interleaved(vocab: SpeechTextVocab, documents: list[str], seed: int) -> torch.Tensor:
    """(windows, 256) of text in which every second run of ten words is codes."""
    ids: list[int] = []
    for number, text in enumerate(documents):
        words = text.split()
        for first in range(0, len(words), 10):
            run = words[first : first + 10]
            if (first // 10 + number + seed) % 2:
                ids += vocab.text.encode(" " + " ".join(run))
            else:
                ids += vocab.speech_segment(
                    [code for word in run for code in codes_of(word)]
                ).tolist()
        ids.append(vocab.eod_id)
    count = len(ids) // WINDOW
    return torch.tensor(ids[: count * WINDOW]).view(count, WINDOW)


def codes_of(word: str) -> list[int]:
    """A code for each letter, told by its neighbours."""
    marked = f"^{word.lower()}$"
    return [zlib.crc32(marked[i : i + 3].encode()) % NUM_CODES for i in range(len(word))]


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
    base: Path,
    vocab: SpeechTextVocab,
    scales: tuple[float, float],
    documents: list[str],
    steps: int,
) -> dict[str, Any]:
    """Losses on held-out windows while the model with its new rows is trained."""
    model = with_new_rows(base, vocab, scales)
    train, held_out = (
        interleaved(vocab, documents[:40], 0),
        interleaved(vocab, documents[-2:], 1)[:8],
    )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    found = {"0": losses(model, vocab, held_out)}
    for step in range(steps):
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
        if (step + 1) % 10 == 0:
            found[str(step + 1)] = losses(model, vocab, held_out)
            print(scales, step + 1, found[str(step + 1)], flush=True)
    return found


if __name__ == "__main__":
    main()
