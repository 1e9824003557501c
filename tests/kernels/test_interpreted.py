"""The fused kernels, step by step in Triton's interpreter: no GPU needed."""

from tests.kernels.interpreter import run_interpreted


def test_kernels_in_the_interpreter():
    run_interpreted("interpreted.py")
