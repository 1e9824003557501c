"""What the plan job wrote, read by the jobs behind it."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from ..errors import DataError
from ..io.files import read_json_object
from ..io.parquet import open_parquet, read_batches

_DOCUMENTS_AT_A_TIME = 1024


def plan_path(folder: Path, task: int) -> Path:
    """The plan of one task."""
    return folder / "plans" / f"{task:05d}.parquet"


def request_paths(folder: Path) -> list[Path]:
    """All request shards of a finished plan, in order.

    Raises:
        DataError: the plan is not finished or a shard is gone.
    """
    if not (folder / "plan.json").exists():
        raise DataError(f"{folder} holds no finished plan; run tools/build_dataset.py plan first")
    names = read_json_object(folder / "plan.json", request_shards=list)["request_shards"]
    there = {path.name: path for path in (folder / "requests").glob("*")}
    for name in names:
        if not isinstance(name, str) or name not in there:
            raise DataError(
                f"request shard {str(name)[:200]!r} is not in {folder / 'requests'}; remove "
                f"{folder} and plan again"
            )
    return [there[name] for name in names]


def read_plan(path: Path) -> Iterator[pa.RecordBatch]:
    """The rows of one task's plan, some hundreds at a time.

    Raises:
        DataError: the file is missing or damaged.
    """
    yield from read_batches(open_parquet(path), path, _DOCUMENTS_AT_A_TIME)
