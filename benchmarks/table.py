"""Write the table of benchmarks/README.md from the files in results/.

    python benchmarks/table.py

`make bench` ends with it. A benchmark without a file in results/ has no line; a file that has no
row here is listed by its name. What is promised of GPUs, measured or not, is in docs/gpu.md.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_speech.io.files import write_text

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
BEGIN = "<!-- written by benchmarks/table.py -->\n"
END = "<!-- end -->\n"
HEAD = (
    "| what | peer | peer / ours | ours | command | device, date, commit |\n"
    "|---|---|---|---|---|---|\n"
)
OPEN = "not yet in this table"
# figures that pages of docs/ show: no ratio to a peer; some of scripts that are gone
ELSEWHERE = (
    "best_of_n",
    "chat_server",
    "code_stability",
    "decoder_table",
    "demo_full",
    "enumerated_kills",
    "fuzzed_readers",
    "gpu_day",
    "launcher_faults",
    "layout_equality",
    "lora",
    "many_documents",
    "new_rows",
    "pretraining_kills",
    "raw_audio",
    "tokenizer_table",
    "speakable_spans",
    "speakable_spans_before",
    "whisper_equality",
    "whisper_starts",
    "whisper_tokenizer",
)
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a file in results/ and how its figures are put."""

    result: str
    what: str
    peer: str
    ours: Callable[[Figures], str] = lambda figures: ""
    ratio: Callable[[Figures], float] = lambda figures: figures["speedup"]
    spread: Callable[[Figures], list[float]] = lambda figures: figures.get("speedup_range", [])


def _rate(value: float, unit: str) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter} {unit}"
    return f"{value:.3g} {unit}"


ROWS = (
    Row(
        result="indexing",
        what="token arrays to .bin/.idx, one thread",
        peer="Megatron's IndexedDatasetBuilder, document by document",
        ours=lambda f: _rate(f["ours_mtok_per_s"] * 1e6, "tokens/s"),
    ),
    Row(
        result="preprocessing",
        what="JSON lines to .bin/.idx, byte-level BPE, start-up left out",
        peer="tokenizers and add_document, text by text",
        ratio=lambda f: f["byte_level_bpe"]["speedup"],
        ours=lambda f: _rate(f["byte_level_bpe"]["ours_mtok_per_core_s"] * 1e6, "tokens/core-s"),
    ),
    Row(
        result="preprocessing",
        what="the same, start-up counted",
        peer="the same",
        ratio=lambda f: f["byte_level_bpe"]["speedup_with_start"],
        ours=lambda f: _rate(
            f["byte_level_bpe"]["with_start_mtok_per_core_s"] * 1e6, "tokens/core-s"
        ),
    ),
    Row(
        result="preprocessing",
        what="the same with a SentencePiece model, start-up left out",
        peer="the same",
        ratio=lambda f: f["sentencepiece"]["speedup"],
        ours=lambda f: _rate(f["sentencepiece"]["ours_mtok_per_core_s"] * 1e6, "tokens/core-s"),
    ),
    *(
        Row(
            result="megatron_preprocessing",
            what=f"JSON lines to .bin/.idx as a user types it, {layout}, start-up left out",
            peer="Megatron-LM's tools/preprocess_data.py, one worker",
            ratio=lambda f, name=name: f[name]["speedup"],
            ours=lambda f, name=name: _rate(f[name]["ours_mtok_per_core_s"] * 1e6, "tokens/core-s"),
        )
        for name, layout in (
            ("smollm2-135m", "SmolLM2's tokenizer"),
            ("qwen", "one in Qwen's layout"),
            ("llama3", "one in Llama 3's layout"),
        )
    ),
    Row(
        result="span_sampling",
        what="spans of documents of 690 words, 1,024 at a time",
        peer="the same function, one document at a time",
        ratio=lambda f: f["documents_per_core_s"] / f["documents_per_core_s_alone"],
        ours=lambda f: _rate(f["documents_per_core_s"], "documents/core-s"),
    ),
    Row(
        result="generation",
        what="text to codes, t2t-debug's shape, batches of 512",
        peer="the same engine, one text at a time",
        ratio=lambda f: f["ratio"],
        ours=lambda f: _rate(f["codes_per_core_s"], "codes/core-s"),
    ),
    Row(
        result="generation_gpu",
        what="the same, t2t-1.5b's shape in bf16, one GPU",
        peer="the same",
        ratio=lambda f: f["ratio"],
        ours=lambda f: _rate(f["codes_per_s"], "codes/s"),
    ),
    Row(
        result="assembling",
        what="plans and codes to interleaved .bin/.idx and provenance",
        peer="IndexedDatasetBuilder.add_document of finished documents",
        ratio=lambda f: f["assemble_mtok_per_core_s"] / f["index_alone_one_by_one_mtok_per_core_s"],
        ours=lambda f: _rate(f["assemble_mtok_per_core_s"] * 1e6, "tokens/core-s"),
    ),
    Row(
        result="sampling",
        what="packing of five million whole documents",
        peer="best fit, document by document",
        ratio=lambda f: f["packing_one_by_one_s"] / f["packing_s"],
        ours=lambda f: f"{f['packing_s']:.2g} s, {f['fill']:.2%} full",
    ),
    Row(
        result="sampling",
        what="cutting of the same into windows",
        peer="core's GPTDataset",
        ratio=lambda f: f["cutting_gptdataset_s"] / f["cutting_s"],
        ours=lambda f: f"{f['cutting_s']:.2g} s",
    ),
    Row(
        result="attention_cpu",
        what="training step of tokenizer-debug with sdpa, fp32, core-seconds",
        peer="the same with eager attention",
        ratio=lambda f: f["fp32_eager_over_sdpa"],
        spread=lambda f: f["fp32_eager_over_sdpa_range"],
        ours=lambda f: f"{f['fp32_sdpa_core_s']:.2f} s",
    ),
    Row(
        result="attention_cpu",
        what="the same in bf16 with eager attention and fused AdamW, core-seconds",
        peer="the same with sdpa and torch's default AdamW",
        ratio=lambda f: f["bf16_default_adamw_over_ours"],
        spread=lambda f: f["bf16_default_adamw_over_ours_range"],
        ours=lambda f: f"{f['bf16_whole_step_core_s']:.2f} s",
    ),
    Row(
        result="language_model",
        what="training steps of lm-debug through Megatron-Core, fp32",
        peer="plain PyTorch loop over transformers' Llama, same weights and windows",
        ours=lambda f: _rate(f["ours_tokens_per_s"], "tokens/s"),
    ),
    Row(
        result="bulk_tokenization",
        what="recordings to code shards, demo tokenizer, short clips, core-seconds",
        peer="plain loop over batches of 16 padded to 30 s, same model",
        ours=lambda f: f"{f['ours_x_real_time']:.0f} x real time, {f['mean_clip_s']:.1f} s clips",
    ),
    Row(
        result="bulk_tokenization_joined",
        what="the same, clips joined",
        peer="the same",
        ours=lambda f: f"{f['ours_x_real_time']:.0f} x real time, {f['mean_clip_s']:.0f} s clips",
    ),
    Row(
        result="bulk_tokenization_gpu",
        what="whisper-large-v3's shape on a GPU, bf16, audio in memory",
        peer="the same",
        ours=lambda f: f"{f['ours_x_real_time']:.0f} x real time",
    ),
    *(
        Row(
            result=f"vq_lookup_{device}",
            what=f"exact look-up, {place}",
            peer=peer,
            ratio=lambda f, key=key: f[f"{key}_over_ours"],
            spread=lambda f, key=key: f[f"{key}_over_ours_range"],
            ours=lambda f: f"{f['tflops']:.3g} TFLOP/s",
        )
        for device, place in (
            ("cpu", "fp32, one thread"),
            ("cuda", "bf16, one GPU"),
            ("cuda_fp32_codebook", "bf16 vectors, fp32 codebook, one GPU"),
            ("cuda_fp32", "fp32, one GPU"),
            ("cuda_offset", "bf16 around a common offset, one GPU"),
        )
        for key, peer in (
            ("addmm", "chunked addmm and argmin, inexact"),
            ("cdist", "torch.cdist and argmin, inexact"),
            (
                "addmm_one_hot",
                "addmm, argmin and one-hot statistics, against look-up and statistics",
            ),
        )
    ),
    *(
        Row(
            result=f"codebook_update_{device}",
            what=f"codebook statistics, {place}",
            peer="one-hot product",
            ours=lambda f: f"{f['gb_per_s']:.3g} GB/s",
        )
        for device, place in (("cpu", "fp32, one thread"), ("cuda", "bf16, one GPU"))
    ),
    Row(
        result="generation_vllm_gpu",
        what="text to codes with vLLM, t2t-1.5b's shape in bf16, one GPU",
        peer="the transformers engine",
        ours=lambda f: _rate(f["codes_per_s"], "codes/s"),
    ),
    *(
        Row(
            result=f"decoding_{device}",
            what=f"codes to sound as they come, {shape}",
            peer="the same decoder, whole utterances",
            ours=lambda f: f"first sound after {f['first_sound_s']:.2g} s",
        )
        for device, shape in (
            ("cpu", "decoder-debug's shape"),
            ("cuda", "decoder-large's shape, one GPU"),
        )
    ),
    Row(
        result="training_gpu",
        what="training steps of lm-1.5b at 8,192 tokens, one GPU",
        peer="megatron.training of the same wheel",
        ratio=lambda f: f["ours over megatron.training"],
        ours=lambda f: f"{f['1.5b bf16: MFU %']:.0f}% MFU in bf16",
    ),
    *(
        Row(
            result="training_gpu_fp8",
            what=f"FP8, {what}",
            peer="bf16",
            ratio=lambda f, key=key: f[key],
        )
        for what, key in (
            ("one decoder layer of lm-9b", "9b: decoder layer, fp8 over bf16"),
            ("lm-9b projected to 40 layers", "9b: projected to 40 layers, fp8 over bf16"),
            ("lm-1.5b whole", "1.5b: whole model, fp8 over bf16"),
        )
    ),
)


def table(results: Path) -> str:
    """The table for what `results` holds, with a line for each file that has no row."""
    records = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    lines = [_line(row, records[row.result]) for row in ROWS if row.result in records]
    known = {row.result for row in ROWS}
    lines += [
        f"| {name} | {record.get('peer', '')} | {OPEN} | "
        f"[{name}.json](results/{name}.json) | {_where(record)}"
        for name, record in records.items()
        if name not in known and not name.startswith(ELSEWHERE)
    ]
    return HEAD + "".join(f"{line}\n" for line in lines)


def _line(row: Row, record: Figures) -> str:
    figures = record["figures"]
    spread = row.spread(figures)
    ratio = f"{row.ratio(figures):.2g}"
    ratio += f" ({spread[0]:.2g} to {spread[-1]:.2g})" if spread else ""
    return f"| {row.what} | {row.peer} | {ratio} | {row.ours(figures)} | {_where(record)}"


def _where(record: Figures) -> str:
    return f"`{record['command']}` | {record['device']}; {record['date']}; {record['commit']} |"


def page(text: str, results: Path) -> str:
    """The page's text with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table(results) + END + after


if __name__ == "__main__":
    write_text(PAGE, page(PAGE.read_text(encoding="utf-8"), HERE / "results"))
    print(f"wrote {PAGE}")
