"""A chat whose tokens come from vLLM's server, in the environment that `make test-vllm` builds."""

import os
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from megatron_speech.chat.events import Done
from megatron_speech.chat.served import VllmServer
from megatron_speech.chat.template import MODES
from megatron_speech.errors import ServiceError
from tests.chat.parts import make_engine, question, write_model
from tests.slurm.commands import wait_until

pytestmark = pytest.mark.vllm

PYTHON = Path(os.environ.get("VLLM_PYTHON", ".venv-vllm/bin/python")).absolute()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Of a width that vLLM's kernels take."""
    return write_model(tmp_path_factory.mktemp("served"), width=128, heads=2)


@pytest.fixture(scope="module")
def url(model, tmp_path_factory):
    assert PYTHON.exists(), f"{PYTHON} is missing; run make test-vllm, or set VLLM_PYTHON"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "vllm.log"
    command = [PYTHON, "-P", "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(address), 300, "vLLM", over=lambda: process.poll() is not None)
        assert answers(address), log.read_text()[-3000:]
        yield address
    finally:
        process.terminate()
        process.wait(timeout=60)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


@pytest.mark.parametrize("mode", MODES)
def test_a_conversation_is_the_one_that_the_model_here_would_have(model, url, mode):
    sessions = [make_engine(model, mode=mode, vllm_url=where).session() for where in (None, url)]
    for session in sessions:
        for user in (question(3, 5, 7), "and you?"):
            assert isinstance(list(session.respond(user))[-1], Done)
    here, there = ([turn.tokens for turn in session.history] for session in sessions)
    assert here == there


def test_a_vocabulary_that_the_server_lacks_is_refused(url):
    with pytest.raises(ServiceError, match="says 400"):
        VllmServer(url, 10_000)
