"""What would make the CPU wait for a GPU, counted on a machine without one.

A number that is read back (`item`, `bool`, `int`, `tolist`), and a result whose size only the data
tells (`nonzero`, a mask as index), hold the CPU until the device has done all it was given.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

_OF_UNKNOWN_SIZE = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}
_OURS = Path(__file__).resolve().parents[2] / "megatron_speech"


class Waits(TorchDispatchMode):
    """Where our code waits, as `file:line operation`, while this is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masked = name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        if masked and name.startswith("index_put") and args[2].numel() == 1:
            masked = False  # torch fills by the mask then
        if name == "_local_scalar_dense" or name in _OF_UNKNOWN_SIZE or masked:
            self.add(name)
        return func(*args, **(kwargs or {}))

    def add(self, operation: str) -> None:
        """Note it, if a file of ours is what asks."""
        frame = sys._getframe(1)
        while frame is not None and not _is_ours(Path(frame.f_code.co_filename)):
            frame = frame.f_back
        if frame is not None:
            place = Path(frame.f_code.co_filename).name
            self.found.append(f"{place}:{frame.f_code.co_name} {operation}")


def _is_ours(file: Path) -> bool:
    return _OURS in file.parents and file.name != "cpu_stand_in.py"


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Waits of the block, one string each."""
    waits, tolist = Waits(), torch.Tensor.tolist
    with monkeypatch.context() as patch, waits:

        def noted(tensor: torch.Tensor) -> Any:
            waits.add("tolist")
            return tolist(tensor)

        patch.setattr(torch.Tensor, "tolist", noted)
        yield waits.found


def on_the_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, where it works on what never leaves the CPU: nothing is counted."""

    def uncounted(*args: Any, **settings: Any) -> Any:
        with _disable_current_modes():
            return function(*args, **settings)

    return uncounted
