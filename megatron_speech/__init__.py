"""Speech-text pre-training with synthetic interleaved data (arXiv 2411.17607) on Megatron-Core."""

__version__ = "0.1.0"
