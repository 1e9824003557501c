#!/usr/bin/env bash
# Print the path of a Python >= 3.12: from PATH, pyenv or uv. Explain what to install if none.
set -u
fits() { "$1" -c 'import sys, venv; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; }

for name in ${PYTHON312:-} python3.12 python3.13 python3; do
  found="$(command -v "$name" 2>/dev/null)" || continue
  if fits "$found"; then echo "$found"; exit 0; fi
done
if command -v pyenv >/dev/null 2>&1; then
  for found in "$(pyenv root)"/versions/3.1[23]*/bin/python; do
    if fits "$found"; then echo "$found"; exit 0; fi
  done
fi
if command -v uv >/dev/null 2>&1; then
  for version in 3.12 3.13; do
    found="$(uv python find "$version" 2>/dev/null)" || continue
    if fits "$found"; then echo "$found"; exit 0; fi
  done
fi
cat >&2 <<'TEXT'
error: no Python >= 3.12 found on PATH, in pyenv or in uv (megatron-core needs it). Install one:
    apt-get install python3.12 python3.12-venv      (Ubuntu 24.04 or newer)
    pyenv install 3.12                              (any system with pyenv)
    uv python install 3.12                          (any system with uv)
or name an interpreter: make install PYTHON312=/path/to/python3.12
TEXT
exit 1
