"""Small packages and model files in the formats that real material comes in."""

import gzip
import hashlib
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from examples.real.packages import Package, UnavailableError


def wheel(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def deb(path: Path, files: Mapping[str, bytes]) -> Path:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    parts = {"debian-binary": b"2.0\n", "control.tar": b"odd", "data.tar.xz": packed.getvalue()}
    with open(path, "wb") as stream:
        stream.write(b"!<arch>\n")
        for name, content in parts.items():
            stream.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
            stream.write(content + b"\n" * (len(content) % 2))
    return path


def package(path: Path, **facts: str) -> Package:
    """The package that pins the file `path`."""
    known = Package(
        name=path.stem,  # whisper-tiny.en.whl is whisper-tiny.en
        version="1.0",
        registry="Debian" if path.suffix == ".deb" else "PyPI",
        license="CC0",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    return replace(known, **facts)


class Shelf:
    """Brings files of a folder, as a registry does; `asked` says which were wanted."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.asked: list[str] = []

    def __call__(self, package: Package, folder: Path) -> Path:
        self.asked.append(package.name)
        found = list(self.folder.glob(f"{package.name}.*"))
        if not found:
            raise UnavailableError(f"{package} could not be fetched: no network")
        copy = folder / found[0].name
        copy.write_bytes(found[0].read_bytes())
        return copy


def r_package(vectors: Mapping[str, list[str]]) -> dict[str, bytes]:
    """Rdata.rdx and Rdata.rdb of character vectors, as R writes a package's data."""
    rdb, places = b"", {}
    for name, lines in vectors.items():
        content = _r_object(_r_strings(lines))
        record = struct.pack(">I", len(content)) + zlib.compress(content)
        places[name] = (len(rdb), len(record))
        rdb += record
    variables = _r_list({name: _r_numbers(place) for name, place in places.items()})
    index = _r_list(
        {"variables": variables, "references": _r_list({}), "compressed": _r_numbers((1,))}
    )
    folder = "usr/lib/R/site-library/some/data"
    return {
        f"{folder}/Rdata.rdx": gzip.compress(_r_object(index), mtime=0),
        f"{folder}/Rdata.rdb": rdb,
    }


def _r_object(value: bytes) -> bytes:
    return b"X\n" + struct.pack(">iiii", 3, 0x40201, 0x30500, 5) + b"UTF-8" + value


def _r_strings(lines: list[str]) -> bytes:
    texts = [line.encode() for line in lines]
    elements = (struct.pack(">ii", 0x40009, len(text)) + text for text in texts)
    return struct.pack(">ii", 16, len(lines)) + b"".join(elements)


def _r_numbers(values: tuple[int, ...]) -> bytes:
    return struct.pack(f">ii{len(values)}i", 13, len(values), *values)


def _r_list(values: Mapping[str, bytes]) -> bytes:
    tag = struct.pack(">iii", 1, 0x40009, 5) + b"names"
    names = struct.pack(">i", 0x402) + tag + _r_strings(list(values)) + struct.pack(">i", 254)
    return struct.pack(">ii", 0x213, len(values)) + b"".join(values.values()) + names


def model_bin(state: Mapping[str, torch.Tensor], dtype: str = "<f2") -> bytes:
    """CTranslate2's file of the weights of transformers' Whisper."""
    code = {"<f4": 0, "<f2": 4}[dtype]
    body, variables = b"", _variables(state)
    for name, values in variables.items():
        content = values.numpy().astype(dtype).tobytes()
        shape = struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
        body += _name(name) + shape + struct.pack("<BI", code, len(content)) + content
    body += _name("decoder/num_heads") + struct.pack("<BBIh", 0, 2, 2, 2)
    alias = _name("decoder/projection/weight") + _name("decoder/embeddings/weight")
    start = struct.pack("<I", 6) + _name("WhisperSpec") + struct.pack("<II", 3, len(variables) + 1)
    return start + body + struct.pack("<I", 1) + alias


def _name(name: str) -> bytes:
    return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"


def _variables(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """CTranslate2's names; queries, keys and values of one attention are one variable."""
    kinds = {"self_attn": "self_attention", "encoder_attn": "attention"}
    stacked: dict[str, list[torch.Tensor]] = {}
    for name in sorted(state, key=lambda name: (".k_proj" in name) + 2 * (".v_proj" in name)):
        if name == "proj_out.weight":
            continue
        _, side, *place, kind = name.split(".")
        if place[0] != "layers":
            table = {"embed_tokens": "embeddings", "embed_positions": "position_encodings"}
            place = [table.get(place[0], place[0])]
        else:
            attention = kinds.get(place[2].removesuffix("_layer_norm"), "")
            match place[2:]:
                case [("fc1" | "fc2") as layer]:
                    place = [f"layer_{place[1]}", "ffn", f"linear_{int(layer[2]) - 1}"]
                case ["final_layer_norm"]:
                    place = [f"layer_{place[1]}", "ffn", "layer_norm"]
                case [_]:
                    place = [f"layer_{place[1]}", attention, "layer_norm"]
                case [_, projection]:
                    order = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "out_proj": 1}[projection]
                    if attention == "attention":
                        order = {"q_proj": 0, "k_proj": 1, "v_proj": 1, "out_proj": 2}[projection]
                    place = [f"layer_{place[1]}", attention, f"linear_{order}"]
        is_norm, is_table = "layer_norm" in place[-1], place[-1] == "position_encodings"
        last = {"weight": "gamma", "bias": "beta"}[kind] if is_norm else kind
        target = "/".join([side, *place, "encodings" if is_table else last])
        stacked.setdefault(target, []).append(state[name])
    return {name: torch.cat(parts) for name, parts in _with_key_biases(stacked).items()}


def _with_key_biases(stacked: dict[str, list[torch.Tensor]]) -> dict[str, list[torch.Tensor]]:
    """transformers' keys have no bias, CTranslate2's have one of zeros."""
    for name, parts in stacked.items():
        if name.endswith("self_attention/linear_0/bias"):
            parts.insert(1, torch.zeros_like(parts[0]))
        elif name.endswith("/attention/linear_1/bias"):
            parts.insert(0, torch.zeros_like(parts[0]))
    return stacked


def whisper_tokenizer() -> bytes:
    """tokenizer.json of a small English Whisper, without the tokens of times."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ("endoftext", "startoftranscript", "en", "translate", "transcribe", "startoflm",
             "startofprev", "nocaptions", "notimestamps")  # fmt: skip
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", normalized=False) for name in names])
    return tokenizer.to_str().encode()


def whisper_settings() -> bytes:
    return json.dumps(
        {"suppress_ids": [1, 2], "suppress_ids_begin": [3, 256], "alignment_heads": [[0, 0]]}
    ).encode()


def g722(seconds: float) -> bytes:
    """Some bytes of G.722: any are a sound."""
    return np.random.default_rng(0).integers(0, 256, round(8000 * seconds), np.uint8).tobytes()
