"""The vLLM engine: a process in an environment of its own decodes, request shard by request shard.

vLLM pins another torch than this package. It reads the exported folder; prompts and codes go
through a pipe (vllm_worker.py). All prompts of a shard are given at once, longest first, to an
engine without prefix cache whose memory for keys and values is fixed: how they are batched depends
on the shard alone.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError
from . import vllm_worker
from .engines import EngineConfig, Generation, PromptEngine, make_batches

_LAST_LINES = 12
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")  # of this environment, not of vLLM's


class VllmEngine(PromptEngine):
    """Decodes with vLLM.

    Raises:
        ConfigError: vLLM does not start in the environment named, or stopped on the way.
        CheckpointError, VocabularyError: as `PromptEngine`.
    """

    def __init__(self, model: Path, config: EngineConfig):
        super().__init__(model, config)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        self._worker = subprocess.Popen(
            # -P: the modules beside the script are not for this interpreter
            [str(config.vllm_python), "-P", vllm_worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment(config),
        )
        self.version: str = self._ask(
            {
                "model": str(model.resolve()),
                "dtype": config.dtype,
                "batch_size": config.batch_size,
                "positions": self.positions,
                "cache_bytes": int(config.vllm_cache_gib * 2**30),
                "temperature": config.temperature,
                "first_code": self.vocab.code_offset,
                "num_codes": self.num_codes,
                "end_token": self.vocab.end_of_audio_id,
            }
        )["version"]

    def decode(
        self,
        prompts: Sequence[np.ndarray],
        most_codes: Sequence[int],
        seeds: np.ndarray,
        advance: Callable[[int], None],
        only: Collection[int] | None = None,
    ) -> list[Generation]:
        """All prompts in one call; see `PromptEngine.decode`."""
        if not len(prompts):
            return []
        order = make_batches([len(prompt) for prompt in prompts], len(prompts))[0]
        found = self._ask(
            {
                "prompts": [prompts[i].tolist() for i in order],
                "most": [int(most_codes[i]) for i in order],
                "seeds": (seeds[order] >> np.uint64(1)).tolist(),  # vLLM's are signed
            }
        )["ids"]
        advance(len(prompts))
        results: list[Generation | None] = [None] * len(prompts)
        for i, ids in zip(order, found, strict=True):
            ended = bool(ids) and ids[-1] == self.vocab.end_of_audio_id
            codes = self.vocab.tokens_to_codes(ids[:-1] if ended else ids)
            results[i] = Generation(codes, ended, 0)
        return [result for result in results if result is not None]

    def close(self) -> None:
        """End the process."""
        assert self._worker.stdin is not None
        self._worker.stdin.close()
        self._worker.wait()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        try:
            print(json.dumps(request), file=self._worker.stdin, flush=True)
            answer = self._worker.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise ConfigError(self._obituary())
        return json.loads(answer)

    def _obituary(self) -> str:
        code = self._worker.wait()
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return (
            f"vLLM in {self.config.vllm_python} ended with status {code}; finished shards are "
            "kept. If it lacked memory, go on where more is free, or begin again in another "
            "output folder with a smaller --batch-size or --vllm-cache-gib (codes depend on "
            "both). It said last:\n" + "\n".join(lines[-_LAST_LINES:])
        )


def environment(config: EngineConfig) -> dict[str, str]:
    """The worker's: this one without our Python, and with the GPU it is to take."""
    found = {name: value for name, value in os.environ.items() if name not in _OURS}
    found |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # scheduling then depends on the requests alone
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(config.vllm_cache_gib))),
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if config.device.startswith("cuda:"):
        found[_VISIBLE] = _visible_device(int(config.device.removeprefix("cuda:")))
    return found


def _visible_device(index: int) -> str:
    """Device `index` of those this process sees, as the variable names it: a number, or a UUID.

    Raises:
        ConfigError: the variable names fewer devices.
    """
    visible = [name.strip() for name in os.environ.get(_VISIBLE, "").split(",") if name.strip()]
    if _VISIBLE not in os.environ:
        return str(index)
    if index >= len(visible):
        raise ConfigError(
            f"--device cuda:{index} is not there: {_VISIBLE} is {os.environ[_VISIBLE]!r}; choose "
            f"one of its {len(visible)}, counted from 0, or change it"
        )
    return visible[index]
