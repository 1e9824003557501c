"""An entry for the records: what keeps the rules is counted, what breaks one is named."""

import hashlib
import importlib.util
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from megatron_speech.errors import DataError
from megatron_speech.io.files import read_json, read_yaml_object
from megatron_speech.model.card import Facts, model_card
from megatron_speech.model.config import ModelConfig
from megatron_speech.recipes import lm, speech_tokenizer
from megatron_speech.recipes.resume import plain
from tests.interleaving.samples import make_vocab

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("record", ROOT / "benchmarks" / "check_record.py")
record = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(record)

SEEDS, LENGTH, BATCH = (1, 2, 3), 256, 4
RULES = {
    "accuracy": 0.85,
    "items": 600,
    "items_sha256": hashlib.sha256(b"items").hexdigest(),
    "least_tokens_between": 100_000,
    "most_parameters": 4_000_000,
    "seeds": SEEDS,
    "speech_tokenizer": {"recipe": "tokenizer-smoke", "settings": {"loop.train_iters": 30}},
    "text_to_token": {"recipe": "t2t-smoke", "settings": {}},
}


def write_given_model(folder: Path, config, train_iters: int) -> None:
    settings = plain(config)
    settings["loop"] |= {"train_iters": train_iters, "save": str(folder)}
    folder.mkdir(parents=True)
    (folder / "run_config.yaml").write_text(yaml.safe_dump(settings))


def write_seed(run: Path, seed: int, exports: dict[int, float], vocab, dataset: Path) -> None:
    """A run of a seed, with an export and an evaluation after each number of steps."""
    folder = run / f"model-{seed}"
    (folder / "run").mkdir(parents=True)
    batch = {"seed": seed, "global_batch_size": BATCH, "lr": 1.0, "min_lr": 0.1}
    config = {
        "batch": batch | {"lr_decay_style": "linear"},
        "data": {"seq_length": LENGTH, "data_path": ["1", str(dataset)]},
        "base": {"pretrained_checkpoint": None},
    }
    (folder / "run" / "run_config.yaml").write_text(yaml.safe_dump(config))
    lines = []
    for steps, accuracy in exports.items():
        line = {"kind": "train", "iteration": steps, "consumed samples": float(steps * BATCH)}
        lines.append(json.dumps(line) + "\n")
        export = folder / f"hf-{steps}"
        export.mkdir()
        facts = Facts(name="x", iteration=steps, windows=steps * BATCH, parameters=3_500_000)
        card = model_card(facts, folder / "run" / "run_config.yaml", ModelConfig(), vocab)
        (export / "README.md").write_text(card)
        result = {
            "model": f"elsewhere/model-{seed}/hf-{steps}",
            "tokenizer_fingerprint": "t",
            "cloze": {"topic": {"s2t": {"accuracy": accuracy, "n": 600}}},
        }
        (run / "evaluation" / f"model-{seed}-{steps}.json").write_text(json.dumps(result))
    (folder / "run" / "metrics.jsonl").write_text("".join(lines))
    (run / "stages" / f"model-{seed}.json").write_text(json.dumps({"seconds": 1200.0}))


@pytest.fixture
def run(tmp_path) -> Path:
    for name in ("storyworld/eval", "evaluation", "stages", "interleaved"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "storyworld" / "eval" / "cloze.jsonl").write_bytes(b"items")
    recipe = speech_tokenizer.RECIPES["tokenizer-smoke"]()
    write_given_model(tmp_path / "speech_tokenizer", recipe, 30)
    recipe = lm.RECIPES["t2t-smoke"]()
    write_given_model(tmp_path / "text_to_token" / "run", recipe, recipe.loop.train_iters)
    spans = pa.table({"generator_fingerprint": [None, "g", "g"]})
    pq.write_table(spans, tmp_path / "interleaved" / "data.spans.parquet")
    vocab = make_vocab(tmp_path / "vocab")
    for seed in SEEDS:
        exports = {1000: 0.7, 2000 + 100 * seed: 0.86, 4000: 0.9}
        write_seed(tmp_path, seed, exports, vocab, tmp_path / "interleaved" / "data")
    return tmp_path


def test_the_first_evaluation_that_reaches_the_accuracy_counts(run):
    entry = record.check_entry(run, RULES)
    assert entry["tokens"] == {str(s): (2000 + 100 * s) * BATCH * LENGTH for s in SEEDS}
    assert entry["mean_tokens"] == 2200 * BATCH * LENGTH
    assert entry["accuracy"] == {"1": 0.86, "2": 0.86, "3": 0.86}
    assert entry["parameters"] == 3_500_000
    assert entry["minutes"] == pytest.approx(20 * 2200 / 4000)
    assert entry["fingerprints"]["speech_tokenizer"] == "t"
    assert entry["fingerprints"]["text_to_token"] == "g"


def change(path: Path, *keys_and_value) -> None:
    """Set a value deep in a JSON or YAML file."""
    *keys, last, value = keys_and_value
    content = read_yaml_object(path)
    place = content
    for key in keys:
        place = place[key]
    place[last] = value
    dump = json.dumps if path.suffix == ".json" else yaml.safe_dump
    path.write_text(dump(content))


BROKEN = {
    "the cloze items": lambda run: (run / "storyworld/eval/cloze.jsonl").write_bytes(b"others"),
    "changed settings of speech_tokenizer: .*lr": lambda run: change(
        run / "speech_tokenizer/run_config.yaml", "optimizer", "lr", 0.5
    ),
    "changed settings of text_to_token: .*train_iters": lambda run: change(
        run / "text_to_token/run/run_config.yaml", "loop", "train_iters", 1
    ),
    "model-2: seed: 7; expected 2": lambda run: change(
        run / "model-2/run/run_config.yaml", "batch", "seed", 7
    ),
    "model-1: weights to start from: 'base'": lambda run: change(
        run / "model-1/run/run_config.yaml", "base", "pretrained_checkpoint", "base"
    ),
    "items: 16; expected 600": lambda run: change(
        run / "evaluation/model-3-4000.json", "cloze", "topic", "s2t", "n", 16
    ),
    r"the speech tokenizers \['other', 't'\]": lambda run: change(
        run / "evaluation/model-3-4000.json", "tokenizer_fingerprint", "other"
    ),
    r"the text-to-token models \['g', 'h'\]": lambda run: pq.write_table(
        pa.table({"generator_fingerprint": ["g", "h"]}), run / "interleaved/data.spans.parquet"
    ),
    "tokens that the run's log has at step 1000": lambda run: (
        run / "model-1/run/metrics.jsonl"
    ).write_text('{"kind": "train", "iteration": 1000, "consumed samples": 8000.0}\n'),
    "seed 2 does not reach 85.0% in 1 evaluations": lambda run: [
        (run / "evaluation" / f"model-2-{steps}.json").unlink() for steps in (2200, 4000)
    ],
    "README.md does not exist": lambda run: (run / "model-2/hf-2200/README.md").unlink(),
}


@pytest.mark.parametrize("said", BROKEN)
def test_a_broken_rule_is_named(run, said):
    BROKEN[said](run)
    with pytest.raises(DataError, match=said):
        record.check_entry(run, RULES)


def test_a_large_model_is_refused(run):
    with pytest.raises(DataError, match="3,500,000 parameters; expected at most 3,000,000"):
        record.check_entry(run, RULES | {"most_parameters": 3_000_000})


def test_evaluations_in_quick_succession_are_refused(run):
    """Of many looks at one run, the luckiest would count."""
    with pytest.raises(DataError, match="evaluated at 1,024,000 and 2,150,400 tokens"):
        record.check_entry(run, RULES | {"least_tokens_between": 2_000_000})


def test_the_page_shows_the_entries():
    known = read_json(record.RULES)
    page = (ROOT / "docs" / "records.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and "`make" in line]
    assert len(rows) == len(known["entries"])
    for entry, row in zip(known["entries"], rows, strict=True):
        accuracies = " ".join(f"{value:.3f}".lstrip("0") for value in entry["accuracy"].values())
        mean = sum(entry["tokens"].values()) / len(entry["tokens"])
        for shown in (f"{mean / 1e6:.1f}M", accuracies, entry["machine"], entry["command"]):
            assert shown in row
        assert min(entry["accuracy"].values()) >= known["rules"]["accuracy"]
        assert entry["parameters"] <= known["rules"]["most_parameters"]
    assert known["rules"]["items_sha256"] in page


def test_an_evaluation_without_the_figures_is_an_error_in_a_line(run, monkeypatch):
    rules = run / "rules.json"
    rules.write_text(json.dumps({"rules": RULES}))
    monkeypatch.setattr(record, "RULES", rules)
    path = next((run / "evaluation").glob("model-1*.json"))
    path.write_text(json.dumps({"model": json.loads(path.read_text())["model"]}))
    with pytest.raises(DataError, match="lacks 'cloze'; expected a run of"):
        record.main(["--run", str(run)])
