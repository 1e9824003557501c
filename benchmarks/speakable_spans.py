"""How much of what the planner has spoken is speakable prose, by spans that a person read.

    python benchmarks/speakable_spans.py --texts novels=FILE documentation=FOLDER,FOLDER \
        man_pages=/usr/share/man/man1 rendered_man_pages=/usr/share/man/man1 chinese=FILE \
        [--read unread.tsv] [--segment-words]

Plans the texts of each kind with the planner's defaults and draws `--spans` of what it has spoken.
speakable_labels.tsv says of each span, by its hash, whether a person would read it aloud as it
stands: no markup, code, table, option, path or part of a word. Where a span of words begins and
ends is free. Texts are not kept there. Spans that nobody has read go to the file of `--read`, a `1`
before each: put a `0` where that is wrong, give the file to `--labels-from`, and run again.

A kind is a file (JSON lines with `text`, or plain text) or a folder of plain texts, gzipped ones
too; `sentences` in its name has whole sentences spoken, `man_pages` takes a folder's manual
pages as they are, `rendered_man_pages` as groff prints them.
"""

import argparse
import gzip
import hashlib
import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from common import report
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from megatron_speech.interleaving.plan import PlanConfig, plan
from megatron_speech.interleaving.spans import SpanConfig
from megatron_speech.text.vocab import SpeechTextVocab

LABELS = Path(__file__).with_name("speakable_labels.tsv")
DOCUMENTS, CHARACTERS = 120, 20_000  # of each kind, and the most in one of them
TEXTS = ("*.txt", "*.txt.gz", "*.md", "*.md.gz", "*.rst", "*.rst.gz", "README*")
PAGES = ("*.[1-8]", "*.[1-8].gz")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", nargs="+", required=True, metavar="KIND=PATH[,PATH]")
    parser.add_argument("--spans", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--read", type=Path, help="where spans without a label go")
    parser.add_argument("--labels-from", type=Path, help="such a file, read: its labels are kept")
    parser.add_argument("--name", default="speakable_spans", help="of the result")
    parser.add_argument("--segment-words", action="store_true", help="as the planner's flag")
    flags = parser.parse_args()
    if flags.labels_from:
        add_labels(flags.labels_from)
    labels = read_labels()
    figures, unread = {}, []
    for name, _, paths in (kind.partition("=") for kind in flags.texts):
        with tempfile.TemporaryDirectory() as folder:
            spans, counts = draw(name, paths.split(","), flags, Path(folder))
        known = [labels[key] for key in map(digest, spans) if key in labels]
        unread += [text for text in spans if digest(text) not in labels]
        figures[name] = {"read": len(known), "speakable": sum(known), **counts}
        if not spans:
            print(f"{name}: nothing is spoken; {counts}")
            continue
        share = f"{sum(known) / len(known):.1%} speakable" if known else "nobody has read one"
        print(f"{name}: {len(spans)} spans, {len(known)} read, {share}; {counts}")
    if unread and flags.read:
        flags.read.write_text("".join(f"1\t{text}\n" for text in dict.fromkeys(unread)))
    if unread:
        raise SystemExit(f"{len(unread)} spans are without a label (--read FILE, --labels-from)")
    # the record names texts without the folders that they lie in here
    texts = [re.sub(r"(?<=[=,])[^,]*/(?=[^,/]+/?(?:,|$))", "", kind) for kind in flags.texts]
    sys.argv[1:] = ["--seed", str(flags.seed), *(["--segment-words"] * flags.segment_words)]
    sys.argv += ["--texts", *texts]
    report(flags.name, "labels of a person", figures)


def draw(
    name: str, paths: list[str], flags: argparse.Namespace, folder: Path
) -> tuple[list[str], dict[str, Any]]:
    """Some of the texts that a plan has spoken, and its counts."""
    found = [text for path in paths for text in texts_of(name, Path(path), flags.seed)]
    found = [text for text in found if text.strip()]
    chosen = random.Random(flags.seed).sample(found, min(len(found), DOCUMENTS))
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in chosen))
    byte_vocabulary(folder / "bytes").save_pretrained(folder / "vocab")
    segment = flags.segment_words and "chinese" in name
    options: dict[str, Any] = {"segment_words": True} if segment else {}
    counts = plan(
        PlanConfig(
            input=(str(corpus),),
            vocab=folder / "vocab",
            output=folder / "plan",
            language="zh" if "chinese" in name else "en",
            seed=flags.seed,
            spans=SpanConfig(unit="sentence" if "sentences" in name else "word"),
            **options,
        )
    )
    shards = sorted((folder / "plan" / "requests").glob("*.parquet"))  # none, if all is left out
    tables = [pq.read_table(path, columns=["text"]) for path in shards]
    requests = [text for table in tables for text in table["text"].to_pylist()]
    spans = random.Random(flags.seed).sample(requests, min(flags.spans, len(requests)))
    return spans, {key: counts[key] for key in ("documents", "words", "unspeakable_words")}


def texts_of(name: str, path: Path, seed: int) -> list[str]:
    if path.is_dir():
        patterns = PAGES if name.endswith("man_pages") else TEXTS
        files = sorted({file for pattern in patterns for file in path.rglob(pattern)})
        files = random.Random(seed).sample(files, min(len(files), 2 * DOCUMENTS))
    else:
        files = [path]
    rendered = name.startswith("rendered")
    texts = [list(parts(text)) for file in files for text in read(file, rendered)]
    # of a folder's files one part each: no long one is half of the sample
    chosen = random.Random(seed)
    return [each for text in texts for each in ([chosen.choice(text)] if path.is_dir() else text)]


def read(file: Path, rendered: bool) -> Iterator[str]:
    """The texts of a file that is UTF-8, the lines of a paragraph of a rendered page as one."""
    content = file.read_bytes() if file.is_file() else b""
    if file.suffix == ".gz":
        content = gzip.decompress(content)
    if rendered:
        command = ["groff", "-mandoc", "-t", "-Kutf8", "-Tutf8", "-rLL=9999n", "-P-cbou"]
        content = subprocess.run(command, input=content, capture_output=True, check=False).stdout
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return
    if file.suffix == ".jsonl":
        yield from (json.loads(line)["text"] for line in text.splitlines())
    else:
        yield text


def parts(text: str) -> Iterator[str]:
    """Cut at ends of lines into parts of at most `CHARACTERS`."""
    part = ""
    for line in text.splitlines(keepends=True):
        if part and len(part) + len(line) > CHARACTERS:
            yield part
            part = ""
        part += line
    yield part


def byte_vocabulary(folder: Path) -> SpeechTextVocab:
    """Every byte is a token: a span may begin wherever a word does."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {letter: number for number, letter in enumerate(["<|endoftext|>", *letters])}
    tokenizer = Tokenizer(models.BPE(ids, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return SpeechTextVocab.extend(folder, num_codes=8)


def digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def read_labels() -> dict[str, int]:
    lines = LABELS.read_text().splitlines() if LABELS.exists() else []
    return {key: int(label) for key, label in (line.split("\t") for line in lines)}


def add_labels(path: Path) -> None:
    """Keep what a person wrote before each text: hash and label, not the text."""
    found = read_labels()
    for line in path.read_text().splitlines():
        label, _, text = line.partition("\t")
        if label not in ("0", "1"):
            raise SystemExit(f"{path}: expected 0 or 1, a tab and a text, got {line[:60]!r}")
        found[digest(text)] = int(label)
    LABELS.write_text("".join(f"{key}\t{label}\n" for key, label in sorted(found.items())))


if __name__ == "__main__":
    main()
