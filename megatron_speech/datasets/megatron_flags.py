"""Flags of Megatron-LM's tools/preprocess_data.py that tools/preprocess_data.py here has not."""

from ..cli import ForeignFlag

_SENTENCES = (
    "it makes a sequence of each sentence, which BERT needs; here a document is one sequence: drop "
    "it, or split the texts beforehand, one to a record"
)
_WORKERS = "parts are handed out as workers become free: give --workers the number of cores"
_FILES = (
    "give --tokenizer-model a folder with tokenizer.json. transformers makes one of the two files: "
    "GPT2TokenizerFast('vocab.json', 'merges.txt').save_pretrained('FOLDER')"
)


def _taken(says: str, values: int = 0) -> ForeignFlag:
    return ForeignFlag(says=says, values=values)


def _refused(says: str, values: int = 0) -> ForeignFlag:
    return ForeignFlag(says=says, values=values, taken=False)


PREPROCESS_FLAGS = {
    "tokenizer-type": ForeignFlag(
        says="the files of --tokenizer-model say what it is",
        values=1,
        only=(
            "HuggingFaceTokenizer",
            "SentencePieceTokenizer",
            "GPTSentencePieceTokenizer",
            "Llama2Tokenizer",
        ),
        otherwise="give --tokenizer-model a folder with tokenizer.json, or a SentencePiece .model; "
        "transformers' AutoTokenizer.from_pretrained('...').save_pretrained('FOLDER') writes the "
        "former for most kinds",
    ),
    "partitions": _taken("parts are made by themselves, --workers processes in all", 1),
    "keep-sequential-samples": _taken("documents always stay in the order of the input"),
    "log-interval": _taken("progress is shown by time", 1),
    "tokenizer-hf-no-include-special-tokens": _taken(
        "what a tokenizer puts around texts is left out"
    ),
    "make-vocab-size-divisible-by": _taken("the padding changes no byte", 1),
    "split-sentences": _refused(_SENTENCES),
    "keep-newlines": _refused(f"it belongs to --split-sentences: {_SENTENCES}"),
    "lang": _refused(f"it belongs to --split-sentences: {_SENTENCES}", 1),
    "find-optimal-num-workers": _refused(_WORKERS),
    "workers-to-check": _refused(_WORKERS),
    "max-documents": _refused(_WORKERS, 1),
    "vocab-file": _refused(_FILES, 1),
    "merge-file": _refused(_FILES, 1),
    "vocab-size": _refused("--tokenizer-model says it: drop it", 1),
    "trust-remote-code": _refused("no code of a tokenizer folder is run: drop it"),
    "tokenizer-hf-no-use-fast": _refused(
        "tokenizer.json is the fast one, with the same ids: drop it"
    ),
    "special-tokens": _refused("add them to the tokenizer and save it: drop it"),
}
"""By name without dashes."""
