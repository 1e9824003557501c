"""The image's own packages stay: what is held, what is installed, what is noticed."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BROUGHT = re.compile(r"(torch|triton|nvidia-.+|cuda-.+)==")


def load_image_packages():
    path = ROOT / "docker" / "image_packages.py"
    spec = importlib.util.spec_from_file_location("image_packages", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


packages = load_image_packages()


class Image:
    """Distributions in a folder, as an image's site-packages, and the folder of the build."""

    def __init__(self, folder: Path, monkeypatch):
        self.site, self.build = folder / "site", folder / "build"
        self.site.mkdir()
        self.build.mkdir()
        for name in ("setup.py", "constraints-ngc.txt"):
            (self.build / name).write_text((ROOT / name).read_text())
        found = packages.distributions
        monkeypatch.setattr(packages, "distributions", lambda: found(path=[str(self.site)]))

    def install(self, name: str, version: str, record: str = "") -> None:
        for old in self.site.glob(f"{name}-*.dist-info"):
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
        folder = self.site / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
        (folder / "RECORD").write_text(record)

    def lines(self, name: str) -> list[str]:
        return (self.build / name).read_text().splitlines()


@pytest.fixture
def image(tmp_path, monkeypatch) -> Image:
    image = Image(tmp_path, monkeypatch)
    image.install("torch", "2.13.0a0+1234.nv26.06")
    image.install("flash_attn", "2.8.3")
    image.install("numpy", "2.1.0")
    image.install("rich", "13.0.0")
    return image


def test_compiled_packages_are_held_and_only_missing_ones_pinned(image, capsys):
    packages.plan(image.build, ["cluster"])
    constraints = image.lines("constraints.txt")
    assert constraints[:3] == ["flash-attn==2.8.3", "numpy==2.1.0", "torch==2.13.0a0+1234.nv26.06"]
    names = [line.partition("==")[0] for line in constraints]
    assert names.count("numpy") == 1
    assert "rich" not in names, "the image's rich fits and may stay"
    assert "transformers" in names
    wanted = image.lines("requirements.txt")
    assert any(line.startswith("datatrove") for line in wanted)
    assert any(line.startswith("torch>=") for line in wanted)
    assert "torch==2.13.0a0" in capsys.readouterr().out


def test_an_image_that_is_too_old_is_refused(image):
    image.install("torch", "2.1.0")
    with pytest.raises(SystemExit, match=r"has torch 2\.1\.0, megatron_speech needs torch>="):
        packages.plan(image.build, [])


def test_an_image_without_torch_and_an_unknown_extra_are_refused(image, tmp_path):
    with pytest.raises(SystemExit, match="no extra 'clusters'"):
        packages.plan(image.build, ["clusters"])
    folder = next(image.site.glob("torch-*"))
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(SystemExit, match="no torch"):
        packages.plan(image.build, [])


@pytest.mark.parametrize(
    ("version", "record"),
    [("2.13.0", ""), ("2.13.0a0+1234.nv26.06", "torch/__init__.py,sha256=other,1\n")],
    ids=["another version", "the same version from elsewhere"],
)
def test_a_changed_torch_fails_the_build(image, version, record):
    packages.plan(image.build, [])
    packages.check(image.build)
    image.install("torch", version, record)
    with pytest.raises(SystemExit, match="packages of the base image were changed:\n  torch: "):
        packages.check(image.build)


def test_what_was_added_and_replaced_is_said(image, capsys):
    packages.plan(image.build, [])
    image.install("tyro", "1.0.17")
    image.install("rich", "15.0.0")
    packages.check(image.build)
    said = capsys.readouterr().out
    assert "added 1: tyro 1.0.17" in said
    assert "replaced 1: rich 13.0.0 -> 15.0.0" in said
    assert json.loads((image.build / "before.json").read_text())["others"] == {"rich": "13.0.0"}


def test_the_images_constraints_are_the_tested_set_without_what_it_brings():
    tested, ngc = (
        packages.pinned(ROOT / name) for name in ("constraints.txt", "constraints-ngc.txt")
    )
    assert set(ngc) == {pin for pin in tested if not BROUGHT.match(pin)}


def test_setup_py_is_read_as_it_is():
    names = {requirement.name for requirement in packages.required(ROOT / "setup.py", ["cluster"])}
    assert {"torch", "megatron-core", "transformers", "datatrove"} <= names


def test_our_code_is_the_last_layer_and_the_user_is_not_root():
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line]
    assert lines[-3:] == [
        "USER 10001",
        "COPY --chown=10001 . .",
        'CMD ["python", "tools/doctor.py"]',
    ]
