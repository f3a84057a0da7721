"""Lines and tables of numbers of the text formats, read one by one: a hostile file has a billion words or one line."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

from ...errors import RejectedError


_ROWS_AT_ONCE = 65_536


def iterate_lines(data: bytes, max_line_bytes: int, encoding: str = "latin-1") -> Iterator[str]:
    """Lines without their ends, whatever ends them. Raises RejectedError for a line beyond `max_line_bytes`."""
    stream = io.TextIOWrapper(io.BytesIO(data), encoding=encoding, errors="replace", newline=None)
    while line := stream.readline(max_line_bytes + 1):
        if len(line) > max_line_bytes and not line.endswith("\n"):
            raise RejectedError(
                "line_too_long", f"a line has more than {max_line_bytes} characters; this is not a text model"
            )
        yield line.rstrip("\n")


def number_rows(lines: Iterator[str], count: int, columns: int, what: str) -> np.ndarray:
    """(count, columns) float64 of the next `count` lines, one row a line; words beyond the columns are left alone.

    The caller has compared `count` with the length of the file. Raises RejectedError when lines or numbers are missing.
    """
    blocks: list[np.ndarray] = []
    for start in range(0, count, _ROWS_AT_ONCE):
        words: list[str] = []
        rows = min(_ROWS_AT_ONCE, count - start)
        for _ in range(rows):
            line = next(lines, None)
            if line is None:
                raise RejectedError("truncated", f"the file ends before its {count} rows of {what}")
            row = line.split(maxsplit=columns)[:columns]
            if len(row) < columns:
                raise RejectedError("broken_file", f"a row of {what} has {len(row)} numbers, not {columns}")
            words.extend(row)
        try:
            blocks.append(np.array(words, dtype=np.float64).reshape(rows, columns))
        except ValueError as error:
            raise RejectedError("broken_file", f"a row of {what} is not made of numbers: {error}") from error
    return np.concatenate(blocks) if blocks else np.zeros((0, columns))
