"""Keep what a base image brings and install what it lacks. Run by the Dockerfile, in the image.

    python docker/image_packages.py plan --folder /opt/image --extras cluster
    PIP_CONSTRAINT=/opt/image/constraints.txt python -m pip install -r /opt/image/requirements.txt
    python docker/image_packages.py check --folder /opt/image

`plan` reads `setup.py` and `constraints-ngc.txt` in the folder and what is installed. Packages that
are compiled for each other are held at the image's versions; of the others, those that are missing
get the tested version. `check` fails if pip touched one that was to be kept. Needs nothing but pip,
since it runs before anything is installed.
"""

import argparse
import ast
import hashlib
import json
import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

KEPT = re.compile(
    r"torch.*|pytorch-.+|triton|numpy|apex|transformer-engine.*|flash-attn.*|nvidia-.+|cuda-.+|cupy.*"
)


def installed() -> dict[str, Distribution]:
    """The distributions that an import finds, by normalised name; the first on the path wins."""
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(canonicalize_name(name), distribution)
    return found


def fingerprint(distribution: Distribution) -> str:
    """Version, place and list of files of a distribution: changes with every reinstallation."""
    record = distribution.read_text("RECORD") or distribution.read_text("METADATA") or ""
    place = distribution.locate_file("")
    return f"{distribution.version} {place} {hashlib.sha256(record.encode()).hexdigest()}"


def required(setup: Path, extras: list[str]) -> list[Requirement]:
    """The requirements that setup.py lists, those of `extras` included."""
    literals: dict[str, ast.expr] = {}
    for node in ast.walk(ast.parse(setup.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg in ("install_requires", "extras_require"):
            literals[node.arg] = node.value
    names = list(ast.literal_eval(literals["install_requires"]))
    of_extras = ast.literal_eval(literals["extras_require"])
    for extra in extras:
        if extra not in of_extras:
            sys.exit(f"error: no extra {extra!r} in {setup}; there are {', '.join(of_extras)}")
        names += of_extras[extra]
    return [Requirement(name) for name in names]


def plan(folder: Path, extras: list[str]) -> None:
    """Write requirements.txt, constraints.txt and before.json into `folder`."""
    present = installed()
    kept = {name: found for name, found in present.items() if KEPT.fullmatch(name)}
    wanted = required(folder / "setup.py", extras)
    for requirement in wanted:
        found = kept.get(canonicalize_name(requirement.name))
        if found and not requirement.specifier.contains(found.version, prereleases=True):
            sys.exit(
                f"error: the base image has {requirement.name} {found.version}, megatron_speech "
                f"needs {requirement}, and what is compiled is not replaced: choose another image "
                "by --build-arg BASE=..."
            )
    if "torch" not in kept:
        sys.exit("error: the base image has no torch; take one of NGC's PyTorch images")
    pins = [Requirement(line) for line in pinned(folder / "constraints-ngc.txt")]
    missing = [pin for pin in pins if canonicalize_name(pin.name) not in present]
    held = [f"{name}=={found.version}" for name, found in sorted(kept.items())]
    write_lines(folder / "constraints.txt", held + [str(pin) for pin in missing])
    write_lines(folder / "requirements.txt", [str(requirement) for requirement in wanted])
    before = {
        "kept": {name: fingerprint(found) for name, found in sorted(kept.items())},
        "others": {name: found.version for name, found in present.items() if name not in kept},
    }
    (folder / "before.json").write_text(json.dumps(before, indent=1) + "\n", encoding="utf-8")
    print(f"kept as they are: {', '.join(held)}")


def check(folder: Path) -> None:
    """Fail if a package that was to be kept is gone, changed or installed a second time."""
    before = json.loads((folder / "before.json").read_text(encoding="utf-8"))
    present = installed()
    changed = [
        f"  {name}: {print_before} -> "
        + (fingerprint(present[name]) if name in present else "not installed")
        for name, print_before in before["kept"].items()
        if name not in present or fingerprint(present[name]) != print_before
    ]
    if changed:
        sys.exit("error: packages of the base image were changed:\n" + "\n".join(changed))
    added = sorted(present.keys() - before["kept"].keys() - before["others"].keys())
    replaced = [
        f"{name} {version} -> {present[name].version}"
        for name, version in sorted(before["others"].items())
        if name in present and present[name].version != version
    ]
    print(f"torch {present['torch'].version} and {len(before['kept']) - 1} others untouched")
    print(f"added {len(added)}: {', '.join(f'{name} {present[name].version}' for name in added)}")
    print(f"replaced {len(replaced)}: {', '.join(replaced) or 'none'}")


def pinned(path: Path) -> list[str]:
    """The lines of a constraints file without comments."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("job", choices=["plan", "check"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--extras", nargs="*", default=[])
    arguments = parser.parse_args()
    if arguments.job == "plan":
        plan(arguments.folder, arguments.extras)
    else:
        check(arguments.folder)


if __name__ == "__main__":
    main()
