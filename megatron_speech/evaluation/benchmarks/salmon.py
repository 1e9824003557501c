"""SALMon: does the model hear that voice, gender, mood, room or background changed?

arXiv 2409.07437, github.com/slp-rl/salmon. A folder for each part with `sample_<n>_<k>.wav`: k = 0
is right, the next one wrong. Rule: the right file has the higher log-likelihood, averaged over its
tokens; equal ones count half; parts are reported one by one. There is one split, 200 pairs a part.
"""

from collections import defaultdict
from pathlib import Path

from .items import Pair, Utterance, wrong_layout

PARTS = (
    "bg_alignment", "bg_all_consistency", "bg_domain_consistency", "gender_consistency",
    "rir_consistency", "sentiment_alignment", "sentiment_consistency", "speaker_consistency",
)  # fmt: skip
LAYOUT = f"folders of sample_<n>_<k>.wav called {', '.join(PARTS)} (SALMon; some of them will do)"


def read_salmon(path: Path, split: str | None) -> list[Pair]:
    """The pairs of the parts that are there.

    Raises:
        DataError: no part is, or a sample has no wrong file.
    """
    pairs = []
    for part in PARTS:
        samples: dict[int, list[Path]] = defaultdict(list)
        for file in sorted((path / part).glob("sample_*_*.wav")):
            number = file.stem.split("_")[1]
            if number.isdigit():
                samples[int(number)].append(file)
        for number, files in sorted(samples.items()):
            if len(files) < 2:
                raise wrong_layout(path, LAYOUT, f"{part}/{files[0].name} has no second one")
            said = [Utterance(key=f"{part}/{f.stem}", audio=f) for f in files[:2]]
            name = f"{part}/{number}"
            pairs.append(Pair(id=name, parts=(part,), tally=name, right=said[0], wrong=said[1]))
    if not pairs:
        raise wrong_layout(path, LAYOUT)
    return pairs
