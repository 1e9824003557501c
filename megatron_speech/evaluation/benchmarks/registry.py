"""The benchmarks by name.

To add one: a reader from a folder to items, and an entry here with what its authors say. Imports
no torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError
from .choices import MMLU_LAYOUT, VOICEBENCH_LAYOUT, read_speech_mmlu, read_voicebench
from .items import Item
from .questions import LAYOUT, SD_QA_LAYOUT, read_questions, read_sd_qa
from .salmon import LAYOUT as SALMON_LAYOUT
from .salmon import read_salmon
from .stories import SPOKEN_LAYOUT, TEXT_LAYOUT, read_spoken_stories, read_stories
from .zerospeech import layout_of, read_sblimp, read_swuggy


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A published benchmark and how it is read here."""

    read: Callable[[Path, str | None], Sequence[Item]]
    """Folder and split (None: the one papers report) to items."""
    layout: str
    """What is expected of the folder."""
    split: str
    """Which split papers report."""
    source: str
    """Who says so."""
    rule: str
    """The published scoring rule."""
    ours: str
    """Where ours differs, or stands beside it."""


_LIKELIER = "the right one has the higher mean log-likelihood of a token; equal ones count half"
_WHOLE = "per_token is the published rule (slamkit's mean_nll); total is its sum"
_CLOZE = "after a context total (text) or pmi (speech) leads; whole_per_token is slamkit's rule"
_ASKED = "words of an answer follow one another in the reply (UltraEval-Audio's qa_exact_match)"
_REPLY = (
    "exist_match is that rule, contains ours (Whisper's normalisation, whole words). A base model "
    "is not told that it is asked: it continues the question"
)

BENCHMARKS: dict[str, Benchmark] = {
    "storycloze": Benchmark(
        read=read_stories,
        layout=TEXT_LAYOUT,
        split="test of spring 2016 (1,871 stories)",
        source="Mostafazadeh et al. 2016, arXiv 1604.01696",
        rule="the right ending is chosen",
        ours=_CLOZE,
    ),
    "spoken-storycloze": Benchmark(
        read=read_spoken_stories,
        layout=SPOKEN_LAYOUT,
        split="StoryCloze's test of spring 2016, spoken",
        source="arXiv 2305.13009 (TWIST), github.com/slp-rl/SpokenStoryCloze",
        rule=_LIKELIER,
        ours=f"{_WHOLE}; {_CLOZE}",
    ),
    "topic-storycloze": Benchmark(
        read=read_spoken_stories,
        layout=SPOKEN_LAYOUT,
        split="StoryCloze's test of spring 2016, spoken, endings of other stories",
        source="arXiv 2305.13009 (TWIST), github.com/slp-rl/SpokenStoryCloze",
        rule=_LIKELIER,
        ours=f"{_WHOLE}; {_CLOZE}",
    ),
    "swuggy": Benchmark(
        read=read_swuggy,
        layout=layout_of("lexical"),
        split="dev",
        source="arXiv 2011.11588, github.com/zerospeech/benchmarks (tasks/lm/lexical.py)",
        rule=f"{_LIKELIER}; voices are averaged, then pairs",
        ours=_WHOLE,
    ),
    "sblimp": Benchmark(
        read=read_sblimp,
        layout=layout_of("syntactic"),
        split="dev",
        source="arXiv 2011.11588, github.com/zerospeech/benchmarks (tasks/lm/syntactic.py)",
        rule=f"{_LIKELIER}; voices are averaged, then pairs",
        ours=_WHOLE,
    ),
    "salmon": Benchmark(
        read=read_salmon,
        layout=SALMON_LAYOUT,
        split="the one there is (200 pairs a part)",
        source="arXiv 2409.07437, github.com/slp-rl/salmon (salmon.py)",
        rule=_LIKELIER,
        ours=_WHOLE,
    ),
    "llama-questions": Benchmark(
        read=read_questions,
        layout=LAYOUT,
        split="all 300 questions",
        source="arXiv 2305.15255 (Spectron), github.com/google-research-datasets/LLAMA1-Test-Set",
        rule=_ASKED,
        ours=_REPLY,
    ),
    "web-questions": Benchmark(
        read=read_questions,
        layout=LAYOUT,
        split="test (2,032 questions)",
        source="Berant et al. 2013; spoken as arXiv 2410.00037 (Moshi) does",
        rule=_ASKED,
        ours=_REPLY,
    ),
    "trivia-qa": Benchmark(
        read=read_questions,
        layout=LAYOUT,
        split="a sample of 1,000 in the spoken copies",
        source="arXiv 1705.03551; spoken as arXiv 2410.00037 (Moshi) does",
        rule=_ASKED,
        ours=_REPLY,
    ),
    "sd-qa": Benchmark(
        read=read_sd_qa,
        layout=SD_QA_LAYOUT,
        split="usa (553 questions)",
        source="arXiv 2410.17196, github.com/MatthewCYM/VoiceBench (evaluator/qa.py)",
        rule="PEDANT and a judge model say whether a chat model's reply is right",
        ours=f"no judge: {_REPLY}",
    ),
    "speech-mmlu": Benchmark(
        read=read_speech_mmlu,
        layout=MMLU_LAYOUT,
        split="all subjects, five examples",
        source="github.com/XiaomiMiMo/MiMo-Audio-Eval (evaluator/speechmmlu_evaluator.py)",
        rule='the first "option a" to "option d" in what the model goes on to say',
        ours="the likeliest of the four options, in the spelling of the examples",
    ),
    "voicebench-choice": Benchmark(
        read=read_voicebench,
        layout=VOICEBENCH_LAYOUT,
        split="mmsu (3,074), openbookqa test (455)",
        source="arXiv 2410.17196, github.com/MatthewCYM/VoiceBench (evaluator/mcq.py)",
        rule="the letter found in a chat model's reply, or a drawn one",
        ours='the likeliest of "The answer is A." to D',
    ),
}


def benchmark_named(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
