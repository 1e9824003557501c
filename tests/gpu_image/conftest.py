"""The same runs as on any GPU."""

from tests.gpu.conftest import plain, weights

__all__ = ["plain", "weights"]
