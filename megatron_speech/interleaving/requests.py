"""Request shards: the texts a plan wants to have spoken."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from ..io.parquet import write_parquet

REQUEST_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "text": pa.string(),
        "document_id": pa.string(),
        "span": pa.int32(),
        "seed": pa.int64(),
        "position": pa.float32(),  # of the span's first character, as a share of the document
        "content": pa.dictionary(pa.int8(), pa.string()),  # speakable.CONTENT_CLASSES
    }
)


class RequestWriter:
    """Writes a task's requests as shards of a fixed size, in order. `names` are the files."""

    def __init__(self, folder: Path, task: int, size: int):
        self.names: list[str] = []
        self._folder, self._task, self._size = folder, task, size
        self._waiting: list[dict[str, Any]] = []

    def __enter__(self) -> "RequestWriter":
        return self

    def add(self, requests: list[dict[str, Any]]) -> None:
        """Append rows of REQUEST_SCHEMA."""
        self._waiting += requests
        while len(self._waiting) >= self._size:
            self._write(self._waiting[: self._size])
            self._waiting = self._waiting[self._size :]

    def _write(self, requests: list[dict[str, Any]]) -> None:
        name = f"{self._task:05d}-{len(self.names):05d}.parquet"
        columns = {name: [row[name] for row in requests] for name in REQUEST_SCHEMA.names}
        write_parquet(self._folder / name, pa.Table.from_pydict(columns, REQUEST_SCHEMA))
        self.names.append(name)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is None and self._waiting:
            self._write(self._waiting)
