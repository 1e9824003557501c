"""The look-up on a GPU.

1. `group_maxima`: one pass of tensor-core products; per vector the four largest *group* maxima
   (a group is 256 codes). Taking maxima alone keeps the pass at the speed of the product: tracking
   indices and runners-up for every score would cost a sixth of it.
2. From the largest score and the error bound (`bounds`) follows each vector's threshold. Groups
   that reach it are looked at again, sorted by group (`find_candidates`): one of K/256 for nearly
   all vectors, two or three where the next maxima reach it, all where the fourth does.
3. Vectors left with one code are settled. The others' candidates, a few, are scored in fp64
   (`float_scores`), and those that fp64's rounding leaves equal in integers (`exact`): the best,
   lowest index on equal scores, is taken.

What is multiplied, with fp32 accumulation: bf16 x bf16 and fp16 x fp16 as given. bf16 vectors
against an fp32 codebook, as bulk tokenization has them: the codebook is split once into two bf16
terms, side by side, and the pass is that of bf16 x bf16 over twice the width. Everything else, such
as training's fp32 vectors or lengths far from one: one bf16 term per bf16 operand and two per
other, scaled and split tile by tile. The exact comparison always reads the values as given.

Memory beyond inputs and outputs depends on the chunk of rows, not on N or K: see `_CHUNK_WAVES`.
"""

# Launch options and constants of Triton kernels are not in their Python signatures.
# pyright: reportArgumentType=false, reportCallIssue=false

from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton import cdiv
from triton.tools.tensor_descriptor import TensorDescriptor

from . import triton_kernels as kernels
from . import triton_rows
from .bounds import Codes, check_finite, describe_codes, error_unit, row_exponents, thresholds
from .exact import best_codes
from .tiles import choose_tiles

# A chunk is as many row blocks as keep every multiprocessor busy this many times over.
_CHUNK_WAVES = 16
_KEYS = 1 << 20
_ITEMS = 1 << 20
_PART_COLUMNS = 64  # the widest tile below
# Beyond these lengths products of unscaled vectors come near the ends of fp32.
_PLAIN_RANGE = (2.0**-20, 2.0**20)


class Search(NamedTuple):
    """Indices of the nearest codes, and how many rows took more than the first pass."""

    indices: Tensor
    """(N,) int64; 0 for vectors that are not finite."""
    contested: int
    """Rows whose error bound left several codes or groups, compared exactly."""
    scanned: int
    """Of these, rows for which every group of the codebook was computed again."""


@torch.no_grad()
def search(x: Tensor, codebook: Tensor, checked: bool = False) -> Search:
    """Find the nearest row of `codebook` (K, D) for each row of `x` (N, D), on their device.

    Raises:
        DataError: `checked`, and a vector or code is not finite.
    """
    with torch.cuda.device_of(x):
        return _search(_rows_contiguous(x), _rows_contiguous(codebook), checked)


def _search(x: Tensor, codebook: Tensor, checked: bool) -> Search:
    code_squares = squared_norms(codebook)
    if checked:
        check_finite(code_squares, "code")
    same = x.dtype == codebook.dtype and x.dtype != torch.float32
    split = (x.dtype, codebook.dtype) == (torch.bfloat16, torch.float32)
    unscaled = same or split
    codes = describe_codes(codebook, code_squares, scale=not unscaled)
    plain = unscaled and _PLAIN_RANGE[0] <= codes.radius <= _PLAIN_RANGE[1]
    terms = side_by_side(codebook) if split and plain else codebook
    scaled_codes = None if unscaled else codes
    indices = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    contested = scanned = 0
    size = _CHUNK_WAVES * 128 * _multiprocessors(x.device)
    for start in range(0, len(x), size):
        part = x[start : start + size]
        squares = squared_norms(part)
        if checked:
            check_finite(squares, "vector", start)
        far = squares.isfinite() & (squares > _PLAIN_RANGE[1] ** 2)
        if plain and not far.any():
            chunk = _Chunk(part, codebook, squares, codes, plain=True, terms=terms)
        else:
            scaled_codes = scaled_codes or describe_codes(codebook, code_squares, scale=True)
            chunk = _Chunk(part, codebook, squares, scaled_codes, plain=False, terms=codebook)
        scanned += chunk.search(indices[start : start + size])
        contested += chunk.contested
    return Search(indices, contested, scanned)


def side_by_side(codebook: Tensor) -> Tensor:
    """An fp32 codebook (K, D) as (K, 2 x D') bf16, D' a multiple of a tile: high and low terms.

    Their sum is each value to within 2^-16 of it. Codes that are not finite become zeros; no bias
    lets them be chosen.
    """
    width = cdiv(codebook.shape[1], _PART_COLUMNS) * _PART_COLUMNS
    terms = torch.zeros(len(codebook), 2, width, dtype=torch.bfloat16, device=codebook.device)
    high, low = (terms[:, part, : codebook.shape[1]] for part in (0, 1))
    high.copy_(codebook)
    low.copy_(codebook - high)  # mixed dtypes subtract in fp32
    terms.masked_fill_(~(high.isfinite() & low.isfinite()).all(dim=1)[:, None, None], 0)
    return terms.flatten(1)


def squared_norms(x: Tensor) -> Tensor:
    """|x|^2 of each row (N, D) -> (N,) fp64; not finite where the row is not."""
    squares = torch.empty(len(x), dtype=torch.float64, device=x.device)
    rows = 4 if x.is_cuda else 256
    if len(x):
        triton_rows.squared_norms[(cdiv(len(x), rows),)](
            x, squares, len(x), x.shape[1], x.stride(0), BLOCK_M=rows, BLOCK_D=256
        )
    return squares


class _Chunk:
    """Look-up of one chunk of rows (n, D)."""

    def __init__(
        self, x: Tensor, codebook: Tensor, squares: Tensor, codes: Codes, plain: bool, terms: Tensor
    ):
        """`terms` is what is multiplied: the codebook, or its terms `side_by_side`."""
        self.x, self.codebook, self.codes, self.squares = x, codebook, codes, squares
        self.terms = terms
        parts = 1 if terms is codebook else 2
        capability = torch.cuda.get_device_capability(x.device) if x.is_cuda else None
        self.tiles = choose_tiles(capability, plain, _bulk_copies(x, terms))
        self.num_groups = cdiv(len(codebook), self.tiles.n)
        self.exponents = row_exponents(squares, codes)
        if plain:
            self.exponents.zero_()
        padding = self.num_groups * self.tiles.n - len(codebook)
        self.bias = torch.nn.functional.pad(codes.bias, (0, padding), value=-torch.inf)
        count = [1 if plain or t.dtype == torch.bfloat16 else 2 for t in (x, codebook)]
        self.products = parts * (sum(count) - 1)
        self.sizes = (len(codebook), x.shape[1], x.stride(0), terms.stride(0), codes.exponent)
        self.constants: dict[str, Any] = {
            "BLOCK_M": self.tiles.m,
            "BLOCK_N": self.tiles.n,
            "BLOCK_D": self.tiles.d,
            "X_TERMS": count[0],
            "C_TERMS": count[1],
            "PARTS": parts,
            "SCALED": not plain,
            "UPCAST": not x.is_cuda,
            "num_warps": self.tiles.warps,
        }
        self.contested = 0

    def search(self, indices: Tensor) -> int:
        """Write the nearest code of each row into `indices` (n,); rows that took every group."""
        values, groups = self._group_maxima()
        unit = error_unit(self.x.shape[1], self.products)
        limits = thresholds(values[0], self.squares, self.exponents, self.codes, unit)
        more, all_groups = values[1:3] >= limits, values[3] >= limits
        del values
        few = torch.where(all_groups, torch.nan, limits)
        rows = torch.arange(len(self.x), dtype=torch.int32, device=self.x.device)
        self._settle(rows, groups, few, more, indices)
        scanned = rows[all_groups]
        for part in scanned.split(max(_ITEMS // self.num_groups, 1)):
            self._settle(part, None, limits, more, indices)
        return len(scanned)

    def _group_maxima(self) -> tuple[Tensor, Tensor]:
        """Four largest group maxima (4, n) and the groups of three of them (3, n) int32."""
        x, codebook, tiles = self.x, self.terms, self.tiles
        blocks, device = cdiv(len(x), tiles.m), x.device
        splits = 4
        while splits < 16 and blocks * splits < _multiprocessors(device):
            splits *= 2
        values = torch.empty(splits, 4, len(x), dtype=torch.float32, device=device)
        groups = torch.empty(splits, 3, len(x), dtype=torch.int32, device=device)
        sources: list[Any] = [x, codebook]
        if tiles.tma:
            sources = [
                TensorDescriptor.from_tensor(source, [rows, tiles.d])
                for source, rows in ((x, tiles.m), (codebook, tiles.n))
            ]
        kernels.group_maxima[(blocks * splits,)](
            *sources, self.bias, self.exponents, values, groups, len(x), *self.sizes,
            self.num_groups, SPLITS=splits, TMA=tiles.tma, num_stages=tiles.stages,
            **self.constants,
        )  # fmt: skip
        kernels.merge_splits[(cdiv(len(x), 1024),)](
            values, groups, len(x), SPLITS=splits, BLOCK=1024
        )
        return values[0].clone(), groups[0].clone()

    def _settle(
        self, rows: Tensor, groups: Tensor | None, limits: Tensor, more: Tensor, indices: Tensor
    ) -> None:
        """Find the codes of `rows` that reach their limit and keep the best of each row.

        The groups looked at are the best one, the next two where `more` (2, n), or all where
        `groups` is None. Rows are halved when their candidates are too many for the buffer, which
        always holds those of one row.
        """
        if groups is None:
            every = torch.arange(self.num_groups, dtype=torch.int32, device=rows.device)
            item_rows = rows.repeat_interleave(self.num_groups)
            item_groups = every.repeat(len(rows))
        else:
            two, three = (rows[reached[rows]] for reached in more)
            item_rows = torch.cat([rows, two, three])
            item_groups = torch.cat([groups[0, rows], groups[1, two], groups[2, three]])
        item_groups, order = item_groups.sort()
        item_rows = item_rows[order]
        del order
        keys = torch.empty(max(_KEYS, len(self.codebook)), dtype=torch.int64, device=rows.device)
        count = torch.zeros(1, dtype=torch.int64, device=rows.device)
        kernels.find_candidates[(cdiv(len(item_rows), self.tiles.m),)](
            self.x, self.terms, self.bias, self.exponents, limits, more[0], item_rows,
            item_groups, indices, keys, count, len(keys), len(item_rows), *self.sizes,
            num_stages=min(self.tiles.stages, 3), **self.constants,
        )  # fmt: skip
        found = int(count)
        if found > len(keys):
            for half in rows.chunk(2):
                self._settle(half, groups, limits, more, indices)
        elif found:
            self._compare(keys[:found].sort().values, indices)

    def _compare(self, keys: Tensor, indices: Tensor) -> None:
        """Keep the best of the candidates `keys` (row * K + code, ascending) of each row."""
        num_codes, width, x_stride, *_ = self.sizes
        scores = torch.empty(len(keys), dtype=torch.float64, device=keys.device)
        magnitudes = torch.empty_like(scores)
        pairs = 8 if keys.is_cuda else 1024
        triton_rows.float_scores[(cdiv(len(keys), pairs),)](
            self.x, self.codebook, keys, scores, magnitudes, len(keys), num_codes, width, x_stride,
            self.codebook.stride(0), BLOCK_P=pairs, BLOCK_D=128,
        )  # fmt: skip
        rows, codes = keys // num_codes, keys % num_codes
        best = best_codes(self.x, self.codebook, rows, codes, scores, magnitudes)
        indices[rows.unique_consecutive()] = best
        self.contested += len(best)


def _bulk_copies(x: Tensor, codebook: Tensor) -> bool:
    """Whether the bulk copy engine takes both: 16-byte addresses and strides."""
    return all(t.data_ptr() % 16 == 0 and t.stride(0) * t.itemsize % 16 == 0 for t in (x, codebook))


def _rows_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] else x.contiguous()


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
