"""Where these tests run: on a GPU. At smoke size (BENCHMARK_SIZE=smoke) a machine without one
rehearses what can run there, with few rows and Triton's interpreter; it says nothing of a GPU.
"""

import os

import torch

REHEARSED = os.environ.get("BENCHMARK_SIZE") == "smoke" and not torch.cuda.is_available()
DEVICE = "cpu" if REHEARSED else "cuda"


def sized(whole: int, rehearsed: int) -> int:
    """How many, so that a rehearsal ends."""
    return min(whole, rehearsed) if REHEARSED else whole
