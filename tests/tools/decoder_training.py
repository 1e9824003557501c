"""A tiny training of a speech decoder, as its tests run it."""

from pathlib import Path

from tests.speech_decoder.tiny_decoder import write_material

SHORT = "--train-iters 8 --save-interval 4 --keep-last 9 --no-tensorboard".split()
BATCHES = "--global-batch-size 4 --micro-batch-size 2".split()
SMALL = "--encoder-dim 16 --encoder-heads 2 --encoder-ffn-dim 16 --flow-dim 16 --flow-ffn-dim 16"


def flow_arguments(folder: Path, save: Path, *more: str) -> list[str]:
    """Command line of eight steps of a flow model; the material is made if it is not there."""
    manifest, codes = material(folder)
    files = ["--manifest", str(manifest), "--codes", str(codes), "--save", str(save)]
    return ["decoder-smoke", *files, *SMALL.split(), *SHORT, *BATCHES, *more]


def vocoder_arguments(folder: Path, save: Path, *more: str) -> list[str]:
    """Command line of eight steps of a vocoder with judges from the third on."""
    manifest, _ = material(folder)
    files = ["--manifest", str(manifest), "--save", str(save)]
    return ["vocoder-smoke", *files, *SHORT, *BATCHES, "--gan-start-step", "3", *more]


def material(folder: Path) -> tuple[Path, Path]:
    """Manifest and codes in `folder`."""
    if not (folder / "manifest.parquet").exists():
        write_material(folder)
    return folder / "manifest.parquet", folder / "codes.parquet"
