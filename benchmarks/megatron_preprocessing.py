"""tools/preprocess_data.py against Megatron-LM's own tool, both as a user runs them.

python benchmarks/megatron_preprocessing.py --megatron-lm Megatron-LM --tokenizer smollm2-135m \\
    --texts novels.jsonl /usr/share/doc

Megatron-LM is a checkout (its tools/preprocess_data.py is enough: the rest comes with
megatron-core). Texts are JSON lines, or folders of text files; those that spell out a special
token, which Megatron's tool does not read as text, are left out. Both tools tokenise the same JSON
lines by one worker, with the tokenizers given and with ones trained on the texts in the layouts of
Qwen's and of Llama 3's; .bin and .idx must be the same. Times are processor seconds, of all
processes a tool starts. Start-up is left out: the peer's by the difference between the whole corpus
and a quarter of it; of ours the imports, and the comparison of all characters with the tokenizer.
"""

import argparse
import functools
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from common import ROOT, processor_seconds, report, require_same_dataset, sized
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from megatron_speech.data.indexed import read_index
from megatron_speech.datasets import text as text_documents
from megatron_speech.datasets.text import PreprocessConfig, preprocess
from megatron_speech.io.files import write_json

ROUNDS, VOCABULARY, TRAINED_ON = sized(3, 1), sized(32_000, 1_000), sized(3_000, 100)
LONGEST = 100_000  # characters; longer files are several documents
END = "<|endoftext|>"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DIGITS = {"qwen": r"\p{N}", "llama3": r"\p{N}{1,3}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megatron-lm", type=Path, required=True)
    parser.add_argument("--texts", type=Path, nargs="+", required=True)
    parser.add_argument("--tokenizer", type=Path, nargs="*", default=[])
    parser.add_argument("--megabytes", type=float, default=sized(12, 2))
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizers = {path.name: path.resolve() for path in flags.tokenizer}
        special = {END, *(token for path in tokenizers.values() for token in special_tokens(path))}
        texts = write_corpora(folder, flags.texts, flags.megabytes * 1e6, special)
        for layout in DIGITS:
            tokenizers[layout] = train(
                folder / layout, layout, texts[:: len(texts) // TRAINED_ON + 1]
            )
        tools = {"ours": ROOT, "peer": flags.megatron_lm.resolve()}
        figures: dict[str, Any] = {"megabytes": (folder / "whole.jsonl").stat().st_size / 1e6}
        figures |= {name: compare(folder, tools, path) for name, path in tokenizers.items()}
    report("megatron_preprocessing", "Megatron-LM's tools/preprocess_data.py", figures)


def compare(folder: Path, tools: dict[str, Path], tokenizer: Path) -> dict[str, float]:
    """Tokens per processor second of both tools, after both wrote the same bytes."""
    whole, part = (folder / f"{size}.jsonl" for size in ("whole", "part"))
    outputs = {part: folder / "quarter", whole: folder / "peer"}
    peer = [run(tools["peer"], corpus, output, tokenizer) for corpus, output in outputs.items()]
    with_start = run(tools["ours"], whole, folder / "ours", tokenizer)
    require_same_dataset(*(folder / f"{tool}_text_document" for tool in tools))
    config = PreprocessConfig(
        input=(str(whole),),
        output_prefix=folder / "again",
        tokenizer_model=tokenizer,
        append_eod=True,
    )
    call = functools.partial(preprocess, config)
    with mock.patch.object(text_documents, "can_be_fast", return_value=True):
        seconds = statistics.median(processor_seconds(call) for _ in range(ROUNDS))
    tokens = {
        name: int(read_index(folder / f"{name}_text_document").lengths.sum())
        for name in ("quarter", "peer")
    }
    peer_rate = (tokens["peer"] - tokens["quarter"]) / (peer[1] - peer[0]) / 1e6
    rate = tokens["peer"] / seconds / 1e6
    return {
        "tokens": tokens["peer"],
        "ours_mtok_per_core_s": rate,
        "peer_mtok_per_core_s": peer_rate,
        "speedup": rate / peer_rate,
        "speedup_with_start": peer[1] / with_start,
    }


def run(tool: Path, corpus: Path, output: Path, tokenizer: Path) -> float:
    """Processor seconds of one run, those of all its processes."""
    command = [sys.executable, str(tool / "tools" / "preprocess_data.py"), "--append-eod"]
    command += ["--input", str(corpus), "--output-prefix", str(output), "--workers", "1"]
    command += ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(tokenizer)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[1]} failed: {said[-2000:]}")
    return usage.ru_utime + usage.ru_stime


def special_tokens(tokenizer: Path) -> list[str]:
    added = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    return [token["content"] for token in added]


def write_corpora(folder: Path, sources: list[Path], size: float, special: set[str]) -> list[str]:
    """Write whole.jsonl and part.jsonl, every fourth of its texts; returns the texts."""
    texts, total = [], 0
    for text in (text for source in sources for text in texts_of(source)):
        if any(token in text for token in special):
            continue
        texts.append(text)
        total += len(text)
        if total > size:
            break
    for name, step in (("whole", 1), ("part", 4)):
        lines = [json.dumps({"text": text}) + "\n" for text in texts[::step]]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return texts


def texts_of(source: Path) -> Iterator[str]:
    """The texts of JSON lines, or of the files in a folder that are UTF-8; .gz are unpacked."""
    if source.is_file():
        for line in source.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)["text"]
        return
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        try:
            content = path.read_bytes()
            text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
        except (UnicodeDecodeError, gzip.BadGzipFile):
            continue
        if "\0" in text:  # no text
            continue
        for first in range(0, len(text), LONGEST):
            if (part := text[first : first + LONGEST]).strip():
                yield part


def train(folder: Path, layout: str, texts: list[str]) -> Path:
    """A byte-level BPE with the splitting of a family of models, as a Hugging Face folder."""
    pattern = Regex(_WORDS + DIGITS[layout] + _REST)
    tokenizer = Tokenizer(models.BPE(ignore_merges=layout == "llama3"))
    if layout == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    write_json(folder / "tokenizer_config.json", settings)
    return folder


if __name__ == "__main__":
    main()
