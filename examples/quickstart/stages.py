"""The stages of the demo. Each calls the public tools a cluster would run, with small recipes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.quickstart import corpora
from examples.quickstart.runner import Demo, Done, Figures, require_finished, to_flags
from examples.quickstart.sizes import BLENDS, DemoSize

TEST_SETS = ("sentences", "windows", "held-out-voice")
_SPOKEN = ("train", "stories", "sentences", "windows", "held-out-voice", "evaluation")
_STORY_SHARDS = 16
"""Shards of the spoken stories; the last one is held out to measure the speech loss."""
_WHOLE_DOCUMENT_WORDS = 100_000


def storyworld(demo: Demo, done: Done) -> Figures:
    """Texts: a corpus, sentences to speak, evaluation items."""
    from examples.storyworld import generate

    size = demo.size
    summary = generate.main(
        to_flags(
            output_dir=demo.path("storyworld"),
            documents=size.documents,
            speech_utterances=size.speech_utterances,
            speech_stories=size.speech_stories,
            speech_test_utterances=size.speech_test_utterances,
            cloze_items=size.cloze_items,
        )
    )
    corpora.split_test_texts(demo.path("storyworld", "speech"))
    text = corpora.choose_text(demo)
    return {
        "documents": summary.documents,
        "words": summary.words,
        "distinct_words": summary.distinct_words,
        "duplicate_share": summary.duplicate_share,
        **text,
    }


def speech(demo: Demo, done: Done) -> Figures:
    """Real audio of sentences, windows, stories and evaluation items, by espeak-ng."""
    from tools import make_speech

    texts = demo.path("storyworld", "speech")
    lists = {name: texts / f"{name}.parquet" for name in _SPOKEN}
    lists["held-out-voice"] = texts / "sentences.parquet"
    lists["evaluation"] = demo.path("storyworld", "eval", "utterances.parquet")
    utterances, duration_s = 0, 0.0
    for name, path in lists.items():
        voices = "held-out" if name == "held-out-voice" else "train"
        flags = to_flags(texts=path, output_dir=demo.path("speech", name), voices=voices)
        summary = make_speech.main(flags)
        utterances += summary.utterances
        duration_s += summary.duration_s
    voices = len(make_speech.VOICES["all"])
    return {"utterances": utterances, "hours": duration_s / 3600, "voices": voices}


def speech_tokenizer(demo: Demo, done: Done) -> Figures:
    """A Whisper encoder with a codebook, trained to recognise speech through it."""
    return _train_tokenizer(demo, "speech_tokenizer", quantize=True)


def tokenizer_without_vq(demo: Demo, done: Done) -> Figures:
    """The same recipe without the codebook, to see what it costs."""
    return _train_tokenizer(demo, "speech_tokenizer_without_vq", quantize=False)


def _train_tokenizer(demo: Demo, folder: str, quantize: bool) -> Figures:
    from megatron_speech.training.reporting import read_metrics
    from tools import train_speech_tokenizer

    size = demo.size
    sets = [demo.path("speech", name, "manifest.parquet") for name in TEST_SETS]
    flags = to_flags(
        manifest=demo.path("speech", "train", "manifest.parquet"),
        valid_manifest=sets,
        save=demo.path(folder),
        train_iters=size.tokenizer_steps,
        quantize_start_step=size.tokenizer_steps // 4,
        eval_interval=0,
    )
    flags += ["--bf16"] if demo.bf16 else []
    flags += [] if quantize else ["--no-quantize"]
    result = train_speech_tokenizer.main([size.recipes[0], *flags])
    require_finished(result.finished)
    return {"validation": read_metrics(demo.path(folder), "valid")[-1]}


def codes(demo: Demo, done: Done) -> Figures:
    """All speech as codes, and how well they can be read back."""
    from tools import evaluate_codes, tokenize_speech

    tokenizer = demo.path("speech_tokenizer", "export")
    for name in _SPOKEN:
        manifest = demo.path("speech", name, "manifest.parquet")
        flags = to_flags(
            input=manifest, speech_tokenizer=tokenizer, output=demo.path("codes", name)
        )
        if name == "stories":
            flags += to_flags(shard_size=corpora.rows_per_shard(manifest, _STORY_SHARDS))
        tokenize_speech.main(flags)
    sets = [demo.path("codes", name) for name in TEST_SETS]
    return evaluate_codes.main(to_flags(speech_tokenizer=tokenizer, codes=sets))


def vocabulary(demo: Demo, done: Done) -> Figures:
    """A byte-level BPE of the corpus, with specials and codes behind it."""
    from tools import build_vocab

    vocab = build_vocab.main(
        to_flags(
            input=corpora.vocabulary_inputs(demo),
            train_bpe=demo.size.bpe_size,
            speech_tokenizer=demo.path("speech_tokenizer", "export"),
            output=demo.path("vocab"),
        )
    )
    return {"size": vocab.size, "padded_size": vocab.padded_size, "fingerprint": vocab.fingerprint}


def text_to_token(demo: Demo, done: Done) -> Figures:
    """A language model from text to codes, trained, exported, and read back."""
    from tools import build_dataset, evaluate_codes

    train, data = demo.path("codes", "train"), demo.path("text_to_token", "data")
    vocab = demo.path("vocab")
    build_dataset.main(["text-to-token", *to_flags(codes=train, vocab=vocab, output_prefix=data)])
    flags = to_flags(data_path=data, train_iters=demo.size.text_to_token_steps)
    export = pretrain_and_export(demo, "text_to_token", demo.size.recipes[1], vocab, flags)
    generated = []
    for name in ("sentences", "windows"):
        texts = demo.path("storyworld", "speech", f"{name}.parquet")
        generated.append(generate_codes(demo, name, texts, vocab))
    tokenizer = demo.path("speech_tokenizer", "export")
    figures = evaluate_codes.main(to_flags(speech_tokenizer=tokenizer, codes=generated))
    return {**figures, "parameters": export.parameters}


def datasets(demo: Demo, done: Done) -> Figures:
    """Text, speech and pairs as indexed datasets."""
    from tools import build_dataset, preprocess_data

    vocab, figures = demo.path("vocab"), {}
    for name in ("train", "valid"):
        flags = to_flags(
            input=corpora.text_path(demo, name),
            tokenizer_model=vocab,
            output_prefix=demo.path("data", name),
        )
        (text,) = preprocess_data.main([*flags, "--append-eod"])
        figures[f"text_{name}"] = text.tokens
    shards = sorted(demo.path("codes", "stories").glob("*.parquet"))
    for name, part in (("speech", shards[:-1] or shards), ("speech_valid", shards[-1:])):
        flags = to_flags(codes=part, vocab=vocab, output_prefix=demo.path("data", name))
        facts = build_dataset.main(["speech", *flags, "--join-segments"])
        figures[name] = facts.speech_tokens
    flags = to_flags(
        codes=demo.path("codes", "train"), vocab=vocab, output_prefix=demo.path("data", "pairs")
    )
    for name, facts in build_dataset.main(["pairs", *flags]).items():
        figures[name] = facts.speech_tokens + facts.text_tokens
    return figures


def interleaving(demo: Demo, done: Done) -> Figures:
    """Text documents whose spans were replaced by generated codes."""
    from tools import build_dataset, evaluate_codes

    prefix = demo.path("interleaved", "data")
    flags = to_flags(
        input=corpora.text_path(demo, "interleaved"),
        vocab=demo.path("vocab"),
        output_prefix=prefix,
    )
    flags += demo.size.span_flags
    facts = build_dataset.main(["interleaved", *flags, *engine_flags(demo)])
    read = evaluate_codes.main(
        to_flags(
            speech_tokenizer=demo.path("speech_tokenizer", "export"),
            codes=Path(f"{prefix}.work") / "codes",
            limit=400,
        )
    )
    keys = ("documents", "speech_word_fraction", "text_tokens", "speech_tokens", "spans")
    return {**{key: facts[key] for key in keys}, "rejected": facts["rejected"],
            "wer": read["codes"]["wer"], "wer_n": read["codes"]["records"]}  # fmt: skip


def language_model(demo: Demo, done: Done, *, arm: str, seed: int) -> Figures:
    """Pre-trains and exports one arm."""
    prefixes = {
        "text": demo.path("data", "train_text_document"),
        "interleaved": demo.path("interleaved", "data"),
        "speech": demo.path("data", "speech"),
        "asr": demo.path("data", "pairs-asr"),
        "tts": demo.path("data", "pairs-tts"),
    }
    blend = [part for name, share in BLENDS[arm].items() for part in (share, prefixes[name])]
    valid = [
        0.5,
        demo.path("data", "valid_text_document"),
        0.5,
        demo.path("data", "speech_valid"),
    ]
    flags = to_flags(
        data_path=blend,
        valid_data_path=valid,
        train_iters=demo.size.language_model_steps,
        eval_interval=0,
        seed=seed,
    )
    name = arm_folder(demo.size, arm, seed)
    export = pretrain_and_export(demo, name, demo.size.recipes[2], demo.path("vocab"), flags)
    from megatron_speech.training.reporting import read_metrics

    losses = read_metrics(demo.path(name, "run"), "valid")[-1]
    windows = int(read_metrics(demo.path(name, "run"))[-1]["consumed samples"])
    return {
        "text_loss": losses.get("text loss"),
        "speech_loss": losses.get("speech loss"),
        "parameters": export.parameters,
        "windows": windows,
    }


def arm_folder(size: DemoSize, arm: str, seed: int) -> str:
    """Folder of an arm: its name, and its seed where there are several."""
    return arm if len(size.seeds) == 1 else f"{arm}-{seed}"


def evaluation(demo: Demo, done: Done) -> Figures:
    """Cloze in four directions, spoken questions, the cascade; for every arm and seed."""
    from tools import evaluate

    figures: dict[str, Any] = {}
    for arm in BLENDS:
        for seed in demo.size.seeds:
            name = arm_folder(demo.size, arm, seed)
            flags = to_flags(
                model=demo.path(name, "hf"),
                speech_tokenizer=demo.path("speech_tokenizer", "export"),
                cloze=demo.path("storyworld", "eval", "cloze.jsonl"),
                qa=demo.path("storyworld", "eval", "qa.jsonl"),
                speech=demo.path("codes", "evaluation"),
                output=demo.path("evaluation", f"{name}.json"),
                precision=demo.machine["precision"],
            )
            if demo.size.evaluation_limit:
                flags += to_flags(limit=demo.size.evaluation_limit)
            figures.setdefault(arm, {})[str(seed)] = evaluate.main(flags)
    return figures


def generate_codes(demo: Demo, name: str, texts: Path, vocab: Path) -> Path:
    """Codes that the text-to-token model makes for a list of texts, in a folder called `name`."""
    from tools import build_dataset

    work = demo.path("text_to_token", "test", name)
    # Spans that cover whole documents: every text becomes one request.
    plan = to_flags(input=texts, vocab=vocab, output=work / "plan", eta=1.0, tasks=1,
                    mean_span_words=_WHOLE_DOCUMENT_WORDS)  # fmt: skip
    build_dataset.main(["plan", *plan])
    target = demo.path("text_to_token", "test", "codes", name)
    build_dataset.main(
        ["generate", *to_flags(plan=work / "plan", output=target), *engine_flags(demo)]
    )
    return target


def pretrain_and_export(
    demo: Demo, folder: str, recipe: str, vocab: Path, flags: Sequence[str]
) -> Any:
    """Train by a recipe in `folder`/run and export to `folder`/hf; what was exported."""
    from tools import convert_checkpoint, pretrain

    save = demo.path(folder, "run")
    flags = [*flags, *to_flags(vocab=vocab, save=save)]
    result = pretrain.main([recipe, *flags, *(["--bf16"] if demo.bf16 else [])])
    require_finished(result.finished)
    target = demo.path(folder, "hf")
    return convert_checkpoint.main(["megatron-to-hf", *to_flags(load=save, hf=target)])


def engine_flags(demo: Demo) -> list[str]:
    """How the text-to-token model makes codes, judged by real ones."""
    flags = to_flags(
        model=demo.path("text_to_token", "hf"),
        like=demo.path("codes", "train"),
        dtype="bfloat16" if demo.bf16 else "float32",
        device="cpu",
    )
    return [*flags, *demo.size.generation_flags]
