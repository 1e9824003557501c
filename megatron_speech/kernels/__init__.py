"""Operators, one folder each: reference, dispatch, and where it pays a fused version.

Their code lies in the repository's top-level `kernels/`. That folder has no `__init__.py`: as an
importable package it would shadow Hugging Face's `kernels`, which transformers looks for. A wheel
carries its folders in here (setup.py); in a checkout this package looks into them directly.
"""

from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]
if (_REPOSITORY / "setup.py").is_file():
    __path__.append(str(_REPOSITORY / "kernels"))
