import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file

from megatron_speech.data.manifest import ManifestRow, write_manifest
from megatron_speech.errors import ConfigError, DataError
from megatron_speech.speech_tokenizer import SpeechTokenizer
from tools import train_speech_tokenizer

TEXTS = ("the cat sat", "a dog ran", "the bird sang a song", "we saw the sea")
TINY = "--d-model 32 --encoder-ffn-dim 64 --encoder-layers 2 --decoder-ffn-dim 64".split()
SHORT = "--train-iters 8 --quantize-start-step 3 --save-interval 4 --keep-last 9".split()
DATA = "--ctc-weight 0.3 --asr-vocab-size 280 --kmeans-vectors 200 --global-batch-size 4"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    random = np.random.default_rng(0)
    rows = []
    for number in range(12):
        samples = 12000 + 1500 * number
        path = folder / f"{number}.flac"
        soundfile.write(path, 0.2 * random.standard_normal(samples), 16000)
        text = TEXTS[number % len(TEXTS)]
        rows.append(ManifestRow(id=f"u{number}", path=path, text=text, duration_s=samples / 16000))
    broken = folder / "broken.flac"
    broken.write_bytes(b"no audio")
    rows.append(ManifestRow(id="broken", path=broken, text="lost"))
    write_manifest(folder / "manifest.parquet", rows)
    return folder / "manifest.parquet"


def arguments(manifest: Path, save: Path, *more: str) -> list[str]:
    files = ["--manifest", str(manifest), "--valid-manifest", str(manifest), "--save", str(save)]
    base = ["tokenizer-smoke", *files, *TINY, *SHORT, *DATA.split(), "--micro-batch-size", "4"]
    return [*base, "--no-tensorboard", *more]


def test_trains_exports_and_resumes_bit_exactly(manifest, tmp_path):
    whole = train_speech_tokenizer.main(arguments(manifest, tmp_path / "whole"))
    assert whole.finished
    assert whole.export is not None
    tokenizer = SpeechTokenizer.from_pretrained(whole.export)
    names = load_file(whole.export / "model.safetensors")
    assert not [name for name in names if "character" in name]
    assert tokenizer.num_codes == 64
    name = manifest.parent.name
    assert {f"wer {name}", f"codebook usage {name}", f"perplexity {name}"} <= set(whole.metrics)
    assert '"broken"' in (tmp_path / "whole/rejected.jsonl").read_text()

    stopped = tmp_path / "stopped"
    shutil.copytree(tmp_path / "whole", stopped)
    shutil.rmtree(stopped / "export")
    shutil.rmtree(stopped / "iter_0000008")
    (stopped / "latest_checkpointed_iteration.txt").write_text("4\n")
    resumed = train_speech_tokenizer.main(arguments(manifest, stopped))
    assert resumed.export is not None
    weights = "model.safetensors"
    assert (resumed.export / weights).read_bytes() == (whole.export / weights).read_bytes()
    assert resumed.metrics == whole.metrics
    assert train_speech_tokenizer.main(arguments(manifest, tmp_path / "whole")) == whole


def test_without_quantizer(manifest, tmp_path):
    result = train_speech_tokenizer.main(arguments(manifest, tmp_path, "--no-quantize"))
    name = manifest.parent.name
    assert list(result.metrics) == [f"wer {name}", f"ctc wer {name}"]


def test_two_processes_train_together(manifest, tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    script = str(Path(train_speech_tokenizer.__file__))
    flags = ["--micro-batch-size", "2", "--train-iters", "5"]
    result = subprocess.run(
        [*command, script, *arguments(manifest, tmp_path, *flags)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "export/model.safetensors").exists()


def test_bad_input(manifest, tmp_path):
    with pytest.raises(ConfigError, match="--manifest"):
        train_speech_tokenizer.main(["tokenizer-smoke", "--save", str(tmp_path)])
    with pytest.raises(DataError, match="does not exist"):
        train_speech_tokenizer.main(arguments(tmp_path / "none.parquet", tmp_path))
    with pytest.raises(SystemExit):
        train_speech_tokenizer.main(arguments(manifest, tmp_path, "--global-batch-size", "5"))
    with pytest.raises(SystemExit):
        train_speech_tokenizer.main(["tokenizer-unknown"])
