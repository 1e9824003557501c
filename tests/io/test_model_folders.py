"""Models of others: from a folder or the hub, and never a line of their code."""

import ast
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from megatron_speech.errors import CheckpointError, DataError
from megatron_speech.io.model_folders import load_weights, origin, refuse_code, resolve_model
from megatron_speech.model.base_model import ImportConfig, import_base
from megatron_speech.model.exported import load_exported
from megatron_speech.model.hf import export_checkpoint
from megatron_speech.model.hf_config import read_config
from megatron_speech.text.build_vocab import VocabConfig, build_vocab
from megatron_speech.text_to_token.engines import EngineConfig
from megatron_speech.text_to_token.transformers_engine import TransformersEngine
from tests.model.base_folders import write_base

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"pickle",
    "modeling.py": b"import os",
    "onnx/model.safetensors": b"another format",
    "model.fp32-00001-of-00002.safetensors": b"again",
}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as a snapshot asks for: one model at one commit."""

    def do_GET(self, head: bool = False) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/some/model"):
            siblings = [{"rfilename": name} for name in FILES]
            tree = [
                {"type": "file", "path": n, "size": len(c), "oid": "0"} for n, c in FILES.items()
            ]
            answer = (
                tree
                if "/tree/" in path
                else {"id": "some/model", "sha": COMMIT, "siblings": siblings}
            )
            self.send(200, json.dumps(answer).encode(), head)
        elif path.startswith("/some/model/resolve/"):
            self.send(200, FILES[path.split("/", 5)[5]], head)
        elif path.startswith("/api/models/gated/model"):
            self.send(403, b"", head, {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        else:
            self.send(404, b"", head, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "none"})

    def do_HEAD(self) -> None:
        self.do_GET(head=True)

    def send(
        self, status: int, body: bytes, head: bool, more: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def resolved(home: Path, endpoint: str, given: str, **environment: str) -> str:
    """What a fresh process makes of a model's name: its environment is read at import."""
    code = (
        "import sys; from megatron_speech.jobs.program import run; "
        "from megatron_speech.io.model_folders import origin, resolve_model\n"
        "def main():\n folder = resolve_model(sys.argv[1]); print(folder); print(origin(folder))\n"
        "run(main)"
    )
    proxies = {name: "" for name in os.environ if name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", code, given],
        cwd=home,
        env=os.environ
        | proxies
        | {"PYTHONPATH": str(ROOT), "HF_HOME": str(home / "cache"), "HF_ENDPOINT": endpoint}
        | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
        | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, 2), done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if done.returncode == 0 else done.stderr


def test_a_model_of_the_hub_is_fetched_once(tmp_path, hub):
    folder, came_from = resolved(tmp_path, hub, "some/model").splitlines()
    found = {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}
    assert found == {"config.json", "model.safetensors", "tokenizer.json"}
    assert came_from == f"some/model@{COMMIT}"
    assert resolved(tmp_path, "http://127.0.0.1:9", "some/model").splitlines()[0] == folder
    offline = resolved(tmp_path, hub, f"some/model@{COMMIT}", HF_HUB_OFFLINE="1")
    assert offline.splitlines() == [folder, came_from]


def test_what_cannot_be_had_is_said_in_one_line(tmp_path, hub):
    for given, endpoint, environment, said in (
        ("no/model", hub, {}, "no/model is no folder here and no model of the Hugging Face hub"),
        ("gated/model", hub, {}, "gated/model is there for those who agreed to its terms"),
        ("a/b", "http://127.0.0.1:9", {}, "hub cannot be reached (no network?)"),
        ("a/b", hub, {"HF_HUB_OFFLINE": "1"}, "hub cannot be reached (HF_HUB_OFFLINE is set)"),
    ):
        printed = resolved(tmp_path, endpoint, given, **environment).strip().splitlines()
        errors = [line for line in printed if line.startswith("error: ")]
        assert len(errors) == 1, printed
        assert said in errors[0], printed


def test_a_folder_is_taken_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked"))
    Path("openai/whisper-base").mkdir(parents=True)
    assert resolve_model("openai/whisper-base") == Path("openai/whisper-base")
    assert origin("openai/whisper-base") == "whisper-base"
    for missing in ("openai/whisper-bose", "none", "a/b/c", "/a/b", "../a/b", "a b/c", "", "x/"):
        if missing:
            with pytest.raises(CheckpointError, match="does not exist; give a folder, or a model"):
                resolve_model(missing)


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """A base model as the hub's cache holds it; asking for another is a failure."""
    folder = tmp_path / "models--some--base" / "snapshots" / COMMIT
    write_base(folder, "llama", tied=True)

    def snapshot_download(model: str, revision: str | None, **patterns: object) -> str:
        assert (model, revision) == ("some/base", "v1")
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    return Path("some/base@v1")


def test_tools_take_a_model_of_the_hub_and_note_its_commit(tmp_path, fetched):
    build_vocab(VocabConfig(output=tmp_path / "vocab", tokenizer=fetched, num_codes=8))
    import_base(ImportConfig(hf=fetched, save=tmp_path / "base", num_codes=8))
    noted = yaml.safe_load((tmp_path / "base" / "run_config.yaml").read_text())["base"]["hf"]
    assert noted == f"some/base@{COMMIT}"
    export_checkpoint(tmp_path / "base", tmp_path / "hf")
    assert f"Converted from `some/base@{COMMIT}`" in (tmp_path / "hf" / "README.md").read_text()


def write_llama(folder: Path) -> None:
    config = LlamaConfig(
        hidden_size=8,
        num_attention_heads=2,
        num_hidden_layers=1,
        intermediate_size=8,
        vocab_size=11,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def name_code(folder: Path, file: str) -> None:
    """Name a class of the folder's own, which leaves a mark when it is imported."""
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    path = folder / file
    content = json.loads(path.read_text()) if path.exists() else {}
    names = {
        "AutoConfig": "own.C",
        "AutoModelForCausalLM": "own.M",
        "AutoTokenizer": ["own.T", None],
    }
    path.write_text(json.dumps(content | {"auto_map": names}))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize(
    "load",
    [
        lambda folder: load_weights(AutoModelForCausalLM, folder),
        load_exported,
        read_config,
        lambda folder: TransformersEngine(folder, EngineConfig()),
    ],
    ids=["load_weights", "load_exported", "import", "generate"],
)
def test_code_of_a_folder_is_refused(tmp_path, monkeypatch, file, load):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    write_llama(tmp_path)
    name_code(tmp_path, file)
    with pytest.raises(CheckpointError, match=rf"wants code .*auto_map in {file}\)"):
        load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_code_of_generation_is_refused(tmp_path):
    write_llama(tmp_path)
    (tmp_path / "custom_generate").mkdir()
    (tmp_path / "custom_generate" / "generate.py").write_text("def generate(): pass")
    with pytest.raises(CheckpointError, match="custom_generate"):
        load_weights(AutoModelForCausalLM, tmp_path)


def test_pickle_is_not_read_and_damage_is_named(tmp_path):
    write_llama(tmp_path)
    weights = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises((CheckpointError, OSError), match="safetensors"):
        load_weights(AutoModelForCausalLM, tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json is damaged"):
        refuse_code(tmp_path)
    with pytest.raises(CheckpointError, match="is no folder"):
        load_weights(AutoModelForCausalLM, tmp_path / "none")


OWN = {
    "SpeechTextVocab", "SpeechTokenizer", "SpeechDecoder", "LanguageModel", "Whisper", "cls",
    "Embedding",
}  # fmt: skip
"""Classes of this package, and torch's, whose `from_pretrained` runs nobody's code."""
NOWHERE_ELSE = {"snapshot_download", "hf_hub_download", "cached_file", "load_dataset", "pipeline"}


def test_models_are_loaded_in_one_place():
    """Every `from_pretrained` of transformers, and every look at the hub, is in model_folders."""
    found = []
    for path in sorted(
        p
        for f in ("megatron_speech", "kernels", "tools", "examples")
        for p in (ROOT / f).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "from_pretrained":
                whose = getattr(node.value, "attr", None) or getattr(node.value, "id", "?")
                bad = whose not in OWN
            elif isinstance(node, ast.Name | ast.Attribute):
                bad = (getattr(node, "attr", None) or getattr(node, "id", "")) in NOWHERE_ELSE
            elif isinstance(node, ast.keyword):
                bad = node.arg == "trust_remote_code" and not (
                    isinstance(node.value, ast.Constant) and node.value.value is False
                )
            else:
                continue
            if bad and path.name != "model_folders.py":
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found, "use megatron_speech/io/model_folders.py"
