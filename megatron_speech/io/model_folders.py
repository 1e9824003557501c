"""Model folders of others: found on disk or on the Hugging Face hub, and loaded without their code.

The one module that knows the hub, and the one that calls transformers' `from_pretrained`. What is
loaded is always a folder: weights are safetensors, nothing is fetched on the way, and no Python of
the folder is run. Imports no torch.
"""

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .files import fingerprint_of, read_json_object

_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "normalizer.json",
    "chat_template.jinja",
)
"""What is fetched of a model: no pickle, no Python, no copy of the weights in another format."""
_ID = re.compile(r"(?P<id>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAMED_CODE = "auto_map"
_CONFIGS = (
    "config.json",
    "tokenizer_config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)


def resolve_model(folder_or_id: str | Path) -> Path:
    """The folder of a model that is given by its folder or by its id on the Hugging Face hub.

    An id is OWNER/NAME, or OWNER/NAME@REVISION with a branch, tag or commit. A folder of that name
    is taken first. Of the hub, what loaders read is kept in the cache of huggingface_hub, and
    taken from there where the hub cannot be reached (or HF_HUB_OFFLINE is set). A file is returned
    as it is: a SentencePiece model, say.

    Raises:
        CheckpointError: there is no such folder or model, it needs a token or an agreement, or
            the hub cannot be reached and has never been asked for it.
    """
    path = Path(folder_or_id)
    if path.exists():
        return path
    found = _ID.fullmatch(str(folder_or_id))
    if found is None or path.parent.exists():
        raise CheckpointError(
            f"{folder_or_id} does not exist; give a folder, or a model of the Hugging Face hub as "
            "OWNER/NAME"
        )
    return _fetch(found["id"], found["revision"], str(folder_or_id))


def _fetch(model: str, revision: str | None, given: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = snapshot_download(
            model, revision=revision, allow_patterns=list(_FILES), ignore_patterns=["*/*"]
        )
    except GatedRepoError:
        why = "is there for those who agreed to its terms: agree on its page, then `hf auth login`"
    except RevisionNotFoundError:
        why = f"has no revision {revision} on the Hugging Face hub"
    except RepositoryNotFoundError:
        why = (
            "is no folder here and no model of the Hugging Face hub (or a private one: "
            "`hf auth login`)"
        )
    except LocalEntryNotFoundError:
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "no network?"
        why = (
            f"is no folder here, and the Hugging Face hub cannot be reached ({reason}) and was not "
            "asked for it before; fetch it where there is a network (`hf download`), or give a "
            "folder"
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        first = str(error).strip().splitlines()[:1] or [type(error).__name__]
        why = f"could not be fetched from the Hugging Face hub: {first[0]}"
    else:
        return _checked(Path(folder), model)
    raise CheckpointError(f"{given} {why}") from None


def _checked(folder: Path, model: str) -> Path:
    if not any(folder.iterdir()):
        raise CheckpointError(
            f"{model} of the Hugging Face hub holds no safetensors, tokenizer.json or config.json: "
            "it is no model that transformers reads"
        )
    return folder


def origin(folder: str | Path) -> str:
    """What to note of where a model came from: its hub id and commit, or its folder's name."""
    place = Path(os.path.abspath(folder))
    owner, _, name = place.parent.parent.name.removeprefix("models--").partition("--")
    if place.parent.name == "snapshots" and name and _COMMIT.fullmatch(place.name):
        return f"{owner}/{name}@{place.name}"
    return place.resolve().name


def model_fingerprint(folder_or_id: str | Path) -> str:
    """Identifies a model by its configuration and the names and sizes of its files.

    Raises:
        CheckpointError: as `resolve_model`.
    """
    folder = resolve_model(folder_or_id)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    sizes = [f"{path.name} {path.stat().st_size}" for path in files]
    config = folder / "config.json"
    return fingerprint_of(*sizes, config.read_bytes() if config.is_file() else b"")


def is_chatglm(folder: str | Path) -> bool:
    """Whether a folder is of a released GLM-4 model: what code it names is not needed to import it.

    Raises:
        DataError: its config is damaged.
    """
    config = Path(folder) / "config.json"
    return config.is_file() and read_json_object(config).get("model_type") == "chatglm"


def refuse_code(folder: str | Path) -> None:
    """Refuse a folder that names Python of its own as part of the model or of its tokenizer.

    Raises:
        CheckpointError: it does.
        DataError: one of its configs is damaged.
    """
    folder = Path(folder)
    named = [
        name
        for name in _CONFIGS
        if (folder / name).is_file() and _NAMED_CODE in read_json_object(folder / name)
    ]
    if (folder / "custom_generate").exists():
        named.append("custom_generate")
    if named and is_chatglm(folder):
        raise CheckpointError(
            f"{folder} has the layout of the released GLM-4 models, which only code of its own "
            "could load; import it with tools/convert_checkpoint.py hf-to-megatron and export it "
            "again, without training in between if you like"
        )
    if named:
        raise CheckpointError(
            f"{folder} wants code of its own to be run ({_NAMED_CODE} in {' and '.join(named)}), "
            "which is never done here; take a version of the model for a class that transformers "
            "has itself (often published with -hf in its name), or, if it is one, remove that entry"
        )


def read_settings(kind: Any, folder: str | Path) -> Any:
    """`kind.from_pretrained(folder)` of a config of transformers'.

    Raises:
        CheckpointError: the folder wants code to be run, or its config is none of `kind`.
    """
    return _load(kind, folder)


def load_weights(kind: Any, folder: str | Path, **settings: Any) -> Any:
    """`kind.from_pretrained(folder)` of a model of transformers', from safetensors alone.

    Raises:
        CheckpointError: the folder wants code to be run, or is no such model.
    """
    return _load(kind, folder, use_safetensors=True, **settings)


def load_gguf(kind: Any, file: Path, **settings: Any) -> Any:
    """A model or tokenizer of transformers' from a GGUF file, its weights dequantised.

    Raises:
        CheckpointError: the file is none, or the package `gguf` is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise CheckpointError(
            "reading GGUF needs the package gguf: pip install -c constraints.txt -e '.[real]'"
        )
    return _load(kind, file.parent, gguf_file=file.name, **settings)


def _load(kind: Any, folder: str | Path, **settings: Any) -> Any:
    if not Path(folder).is_dir():
        raise CheckpointError(f"{folder} is no folder; give that of a model")
    refuse_code(folder)
    try:
        return kind.from_pretrained(
            Path(folder), trust_remote_code=False, local_files_only=True, **settings
        )
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        first = str(error).strip().splitlines()[:3] or [type(error).__name__]
        raise CheckpointError(f"{folder} cannot be loaded: {' '.join(first)}") from None
