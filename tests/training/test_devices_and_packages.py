"""What a process finds on its machine: packages however they were installed, and its own GPU."""

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from megatron_speech.training.distributions import transformer_engine_version
from megatron_speech.training.installed import installed, own_gpu
from megatron_speech.training.megatron.parallel import kernels_in_order, session
from megatron_speech.training.parallel_config import ParallelConfig

ENGINE = "transformer_engine"
ATTENTION = ("NVTE_FLASH_ATTN", "NVTE_FUSED_ATTN", "NVTE_UNFUSED_ATTN")


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """`install(code, *distributions, compiled=path)` makes a Transformer Engine that is found."""
    real = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(ENGINE)}
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(code="", *distributions, compiled=None):
        package = tmp_path / "transformer_engine" / "pytorch"
        package.mkdir(parents=True)
        (package.parent / "__init__.py").touch()
        (package / "__init__.py").write_text(code)
        if compiled is not None:
            (tmp_path / compiled).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / compiled).touch()
        for name in distributions:
            info = tmp_path / f"{name.replace('-', '_')}-2.8.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.8.0\n")

    yield install
    for name in [name for name in sys.modules if name.startswith(ENGINE)]:
        del sys.modules[name]
    sys.modules.update(real)


@pytest.fixture
def gpu(monkeypatch):
    """A machine that says it has two Hopper GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    installed.cache_clear()
    yield
    installed.cache_clear()


BUILT_FROM_SOURCE = [
    "transformer_engine_torch.cpython-312-x86_64-linux-gnu.so",
    "transformer_engine/transformer_engine_torch.cpython-310-x86_64-linux-gnu.so",
]


@pytest.mark.parametrize("compiled", BUILT_FROM_SOURCE)
def test_transformer_engine_of_an_image_counts(compiled, engine, gpu):
    """Built from source it is one distribution, as in NVIDIA's images."""
    suffix = f".{sys.implementation.cache_tag}-x86_64-linux-gnu.so"
    here = compiled.replace(".cpython-312-x86_64-linux-gnu.so", suffix)
    engine("", "transformer-engine", compiled=here)
    assert transformer_engine_version() == "2.8.0 (built from source)"
    assert installed().has_transformer_engine


def test_transformer_engine_of_wheels_counts(engine, gpu):
    engine("", "transformer-engine", "transformer-engine-torch")
    assert installed().transformer_engine == "2.8.0"


def test_half_a_transformer_engine_does_not(engine, gpu):
    engine("", "transformer-engine")
    assert not installed().has_transformer_engine


@pytest.mark.parametrize("error", ["ImportError", "OSError", "AssertionError"])
def test_a_transformer_engine_that_cannot_be_imported_is_said(error, engine, gpu):
    engine(f"raise {error}('no libcudnn')", "transformer-engine", "transformer-engine-torch")
    found = installed()
    assert not found.has_transformer_engine
    assert found.transformer_engine_error == (
        f"2.8.0, which cannot be imported ({error}: no libcudnn)"
    )


def test_a_spawned_rank_keeps_the_gpu_it_chose(gpu, monkeypatch):
    """Without torchrun, ranks of one group would all go to the first GPU, where NCCL stops."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert own_gpu().index == 0
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    assert own_gpu().index == 1
    assert installed().gpu == "GPU 1"
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert own_gpu().index == 0


def test_a_session_forgets_the_attention_backend(monkeypatch):
    """Core refuses a model of another backend as long as the environment names the first."""
    for name in ATTENTION:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(ATTENTION[2], "1")
    with session(ParallelConfig()):
        os.environ.update(dict.fromkeys(ATTENTION, "0"))
    assert [os.environ.get(name) for name in ATTENTION] == [None, None, "1"]


def test_the_order_of_kernels_is_asked_for_before_cuda_starts(monkeypatch):
    name = "CUDA_DEVICE_MAX_CONNECTIONS"
    monkeypatch.delenv(name, raising=False)
    divided = ParallelConfig(tensor_model_parallel_size=2)
    with kernels_in_order(divided):
        assert os.environ[name] == "1"
    assert name not in os.environ
    with kernels_in_order(ParallelConfig()):
        assert name not in os.environ
    monkeypatch.setenv(name, "8")
    with kernels_in_order(divided):
        assert os.environ[name] == "8"


def test_pretraining_asks_before_it_looks_for_a_gpu():
    code = """
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from megatron_speech.recipes import lm
def see(*_): raise SystemExit(os.environ.get("CUDA_DEVICE_MAX_CONNECTIONS"))
lm.check = see
debug = lm.lm_debug()
lm.resolve = lambda config, *_: config
loop = replace(debug.loop, save=Path(tempfile.mkdtemp()) / "run")
parallel = replace(debug.parallel, tensor_model_parallel_size=2)
lm.pretrain(replace(debug, parallel=parallel, loop=loop))
"""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_DEVICE_MAX_CONNECTIONS"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr.strip().endswith("1")
