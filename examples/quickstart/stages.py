"""The stages of the demo. Each calls the public tools a cluster would run, with small recipes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.quickstart import corpora
from examples.quickstart.runner import Demo, Done, Figures, to_flags, tool, train
from examples.quickstart.sizes import BLENDS, DemoSize

TEST_SETS = ("sentences", "windows", "held-out-voice")
_SPOKEN = ("train", "stories", *TEST_SETS, "evaluation")
_STORY_SHARDS = 16
"""Shards of the spoken stories; the last one is held out to measure the speech loss."""
_WHOLE_DOCUMENT_WORDS = 100_000
_GENERATED = ("documents", "speech_utterances", "speech_stories", "speech_test_utterances",
              "cloze_items")  # fmt: skip


def storyworld(demo: Demo, done: Done) -> Figures:
    """Texts: a corpus, sentences to speak, evaluation items."""
    from examples.storyworld import generate

    settings = {name: getattr(demo.size, name) for name in _GENERATED}
    summary = generate.main(to_flags(output_dir=demo.path("storyworld"), **settings))
    corpora.split_test_texts(demo.path("storyworld", "speech"))
    return {
        "documents": summary.documents,
        "words": summary.words,
        "distinct_words": summary.distinct_words,
        "duplicate_share": summary.duplicate_share,
        **corpora.choose_text(demo),
    }


def speech(demo: Demo, done: Done) -> Figures:
    """Real audio of sentences, windows, stories and evaluation items, by espeak-ng."""
    from megatron_speech.text_to_speech.espeak import voices_of

    texts = demo.path("storyworld", "speech")
    lists = {name: texts / f"{name}.parquet" for name in _SPOKEN}
    lists["held-out-voice"] = texts / "sentences.parquet"
    lists["evaluation"] = demo.path("storyworld", "eval", "utterances.parquet")
    made = []
    for name, path in lists.items():
        voices = "held-out" if name == "held-out-voice" else "train"
        folder = demo.path("speech", name)
        made.append(tool("make_speech", texts=path, output_dir=folder, voices=voices))
    return {
        "utterances": sum(summary.utterances for summary in made),
        "hours": sum(summary.duration_s for summary in made) / 3600,
        "voices": len(voices_of("en", "all")),
    }


def speech_tokenizer(
    demo: Demo, done: Done, *, folder: str = "speech_tokenizer", quantize: bool = True
) -> Figures:
    """A Whisper encoder with a codebook (or, to compare, without), trained to recognise speech."""
    from megatron_speech.training.reporting import read_metrics

    steps = demo.size.tokenizer_steps
    train(
        "train_speech_tokenizer",
        demo.size.recipes[0],
        manifest=demo.manifest("train"),
        valid_manifest=[demo.manifest(name) for name in TEST_SETS],
        save=demo.path(folder),
        train_iters=steps,
        quantize_start_step=steps // 4,
        eval_interval=0,
        bf16=demo.bf16,
        quantize=quantize,
    )
    return {"validation": read_metrics(demo.path(folder), "valid")[-1]}


def codes(demo: Demo, done: Done) -> Figures:
    """All speech as codes, and how well they can be read back."""
    for name in _SPOKEN:
        rows = corpora.rows_per_shard(demo.manifest(name), _STORY_SHARDS)
        tool(
            "tokenize_speech",
            input=demo.manifest(name),
            speech_tokenizer=demo.speech_tokenizer,
            output=demo.path("codes", name),
            shard_size=rows if name == "stories" else None,
        )
    sets = [demo.path("codes", name) for name in TEST_SETS]
    return tool("evaluate_codes", speech_tokenizer=demo.speech_tokenizer, codes=sets)


def vocabulary(demo: Demo, done: Done) -> Figures:
    """A byte-level BPE of the corpus, with specials and codes behind it."""
    vocab = tool(
        "build_vocab",
        input=corpora.vocabulary_inputs(demo),
        train_bpe=demo.size.bpe_size,
        speech_tokenizer=demo.speech_tokenizer,
        output=demo.path("vocab"),
    )
    return {"size": vocab.size, "padded_size": vocab.padded_size, "fingerprint": vocab.fingerprint}


def text_to_token(demo: Demo, done: Done) -> Figures:
    """A language model from text to codes, trained, exported, and read back."""
    vocab = demo.path("vocab")
    codes = [demo.path("codes", "train")]
    export = train_text_to_token(demo, demo.size.recipes[1], vocab, codes=codes)
    generated = [
        generate_codes(demo, name, demo.path("storyworld", "speech", f"{name}.parquet"), vocab)
        for name in ("sentences", "windows")
    ]
    figures = tool("evaluate_codes", speech_tokenizer=demo.speech_tokenizer, codes=generated)
    return {**figures, "parameters": export.parameters}


def datasets(demo: Demo, done: Done) -> Figures:
    """Text, speech and pairs as indexed datasets."""
    shards = sorted(demo.path("codes", "stories").glob("*.parquet"))
    return build_datasets(
        demo,
        vocab=demo.path("vocab"),
        texts={name: corpora.text_path(demo, name) for name in ("train", "valid")},
        speech={"speech": shards[:-1] or shards, "speech_valid": shards[-1:]},
        pairs=[demo.path("codes", "train")],
    )


def interleaving(demo: Demo, done: Done) -> Figures:
    """Text documents whose spans were replaced by generated codes."""
    text, flags = corpora.text_path(demo, "interleaved"), demo.size.span_flags
    return interleave(demo, text, demo.path("vocab"), flags, read=400)


def language_model(demo: Demo, done: Done, *, arm: str, seed: int) -> Figures:
    """Pre-trains and exports one arm."""
    from megatron_speech.training.reporting import read_metrics

    valid = [demo.path("data", name) for name in ("valid_text_document", "speech_valid")]
    name = arm_folder(demo.size, arm, seed)
    export = pretrain_and_export(
        demo,
        name,
        demo.size.recipes[2],
        vocab=demo.path("vocab"),
        data_path=blend(demo, arm),
        valid_data_path=[part for path in valid for part in (0.5, path)],
        train_iters=demo.size.language_model_steps,
        eval_interval=0,
        seed=seed,
    )
    losses = read_metrics(demo.path(name, "run"), "valid")[-1]
    return {
        "text_loss": losses.get("text loss"),
        "speech_loss": losses.get("speech loss"),
        "parameters": export.parameters,
        "windows": int(read_metrics(demo.path(name, "run"))[-1]["consumed samples"]),
    }


def arm_folder(size: DemoSize, arm: str, seed: int) -> str:
    """Folder of an arm: its name, and its seed where there are several."""
    return arm if len(size.seeds) == 1 else f"{arm}-{seed}"


def evaluation(demo: Demo, done: Done) -> Figures:
    """Cloze in four directions, spoken questions, the cascade; for every arm and seed."""
    figures: dict[str, Any] = {}
    for arm in BLENDS:
        for seed in demo.size.seeds:
            name = arm_folder(demo.size, arm, seed)
            figures.setdefault(arm, {})[str(seed)] = tool(
                "evaluate",
                model=demo.path(name, "hf"),
                speech_tokenizer=demo.speech_tokenizer,
                cloze=demo.path("storyworld", "eval", "cloze.jsonl"),
                qa=demo.path("storyworld", "eval", "qa.jsonl"),
                speech=demo.path("codes", "evaluation"),
                output=demo.path("evaluation", f"{name}.json"),
                precision=demo.machine["precision"],
                limit=demo.size.evaluation_limit,
            )
    return figures


def train_text_to_token(
    demo: Demo,
    recipe: str,
    vocab: Path,
    *flags: str,
    codes: Sequence[Path],
    held_out: Path | None = None,
    **more: Any,
) -> Any:
    """Train the text-to-token model; what was exported.

    Args:
        demo: the run.
        recipe: name of its recipe.
        vocab: text and codes.
        codes: code shards with text to train on.
        flags: further flags of the training.
        held_out: code shards with text to measure the loss on.
        more: further settings of the training.
    """
    sets: dict[str, tuple[str, Any]] = {"data_path": ("data", codes)}
    if held_out:
        sets["valid_data_path"] = ("held-out", held_out)
    settings: dict[str, Any] = {"vocab": vocab, "train_iters": demo.size.text_to_token_steps}
    settings |= more
    for flag, (name, shards) in sets.items():
        settings[flag] = demo.path("text_to_token", name)
        tool("build_dataset", "text-to-token", codes=shards, vocab=vocab,
             output_prefix=settings[flag])  # fmt: skip
    return pretrain_and_export(demo, "text_to_token", recipe, *flags, **settings)


def generate_codes(demo: Demo, name: str, texts: Path, vocab: Path) -> Path:
    """Codes that the text-to-token model makes for a list of texts, in a folder called `name`."""
    plan = demo.path("text_to_token", "test", name, "plan")
    # Spans that cover whole documents: every text becomes one request.
    tool("build_dataset", "plan", input=texts, vocab=vocab, output=plan, eta=1.0, tasks=1,
         mean_span_words=_WHOLE_DOCUMENT_WORDS)  # fmt: skip
    target = demo.path("text_to_token", "test", "codes", name)
    tool("build_dataset", "generate", *_engine_flags(demo), plan=plan, output=target)
    return target


def build_datasets(
    demo: Demo,
    *,
    vocab: Path,
    texts: Mapping[str, Path],
    speech: Mapping[str, Any],
    pairs: Sequence[Path],
) -> Figures:
    """Write `data/NAME` of each text and of each code shards, and `data/pairs`; tokens of each."""
    figures = {}
    for name, text in texts.items():
        prefix = demo.path("data", name)
        (facts,) = tool("preprocess_data", "--append-eod", input=text, tokenizer_model=vocab,
                        output_prefix=prefix)  # fmt: skip
        figures[f"text_{name}"] = facts.tokens
    for name, shards in speech.items():
        facts = tool("build_dataset", "speech", "--join-segments", codes=shards, vocab=vocab,
                     output_prefix=demo.path("data", name))  # fmt: skip
        figures[name] = facts.speech_tokens
    prefix = demo.path("data", "pairs")
    made = tool("build_dataset", "pairs", codes=pairs, vocab=vocab, output_prefix=prefix)
    return figures | {name: facts.speech_tokens + facts.text_tokens for name, facts in made.items()}


def interleave(demo: Demo, text: Path, vocab: Path, flags: Sequence[str], read: int) -> Figures:
    """Interleave a corpus; word errors are those of the first `read` spans."""
    prefix = demo.path("interleaved", "data")
    facts = tool("build_dataset", "interleaved", *flags, *_engine_flags(demo), input=text,
                 vocab=vocab, output_prefix=prefix)  # fmt: skip
    made = Path(f"{prefix}.work") / "codes"
    errors = tool("evaluate_codes", speech_tokenizer=demo.speech_tokenizer, codes=made, limit=read)
    keys = ("documents", "speech_word_fraction", "text_tokens", "speech_tokens", "spans")
    return {**{key: facts[key] for key in keys}, "rejected": facts["rejected"],
            "wer": errors["codes"]["wer"], "wer_n": errors["codes"]["records"]}  # fmt: skip


def blend(demo: Demo, arm: str) -> list[Any]:
    """Shares and datasets that an arm is trained on."""
    prefixes = {
        "text": demo.path("data", "train_text_document"),
        "interleaved": demo.path("interleaved", "data"),
        "speech": demo.path("data", "speech"),
        "asr": demo.path("data", "pairs-asr"),
        "tts": demo.path("data", "pairs-tts"),
    }
    return [part for name, share in BLENDS[arm].items() for part in (share, prefixes[name])]


def pretrain_and_export(demo: Demo, folder: str, recipe: str, *flags: str, **settings: Any) -> Any:
    """Train by a recipe in `folder`/run and export to `folder`/hf; what was exported."""
    save = demo.path(folder, "run")
    train("pretrain", recipe, *flags, save=save, bf16=demo.bf16, **settings)
    return tool("convert_checkpoint", "megatron-to-hf", load=save, hf=demo.path(folder, "hf"))


def _engine_flags(demo: Demo) -> list[str]:
    """How the text-to-token model makes codes, judged by real ones."""
    flags = to_flags(
        model=demo.path("text_to_token", "hf"),
        like=demo.path("codes", "train"),
        dtype="bfloat16" if demo.bf16 else "float32",
        device="cpu",
    )
    return [*flags, *demo.size.generation_flags]
