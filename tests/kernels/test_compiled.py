"""What the compiler makes of the kernels for Hopper, without a GPU: tensor cores, bulk copies,
nothing spilled, shared memory that fits."""

import re
import subprocess

import pytest
import triton
from megatron_speech.kernels.codebook_update import triton_impl as sums
from megatron_speech.kernels.vq_lookup import triton_kernels, triton_rows
from megatron_speech.kernels.vq_lookup.tiles import choose_tiles
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SHARED_BYTES = 227 * 1024
TYPES = {
    "bias": "*fp32",
    "exponents": "*i32",
    "values": "*fp32",
    "groups": "*i32",
    "thresholds": "*fp32",
    "several": "*i1",
    "item_rows": "*i32",
    "item_groups": "*i32",
    "indices": "*i64",
    "keys": "*i64",
    "count": "*i64",
    "scores": "*fp64",
    "magnitudes": "*fp64",
    "sums": "*fp32",
    "partial": "*fp32",
    "order": "*i64",
    "starts": "*i64",
    "ends": "*i64",
    "pieces": "*i64",
    "slot_ends": "*i64",
    "codes": "*i64",
}


def compiled(kernel, path, x, codebook, warps, stages, **constants):
    """Compile for sm_90; returns PTX, intermediate code, bytes of shared memory and of stack."""
    names = kernel.arg_names
    types = {n: "constexpr" if n in constants else TYPES.get(n, "i32") for n in names}
    types |= {n: t for n, t in (("x", x), ("codebook", codebook)) if n in names}
    # Pointers and strides that the launcher would find to be multiples of 16.
    aligned = [n for n, t in types.items() if t.startswith("*") or n in ("width", "x_stride")]
    attributes = {
        (names.index(n),): [["tt.divisibility", 16]] for n in (*aligned, "c_stride") if n in names
    }
    source = ASTSource(kernel, types, constants, attributes)
    options = {"num_warps": warps, "num_stages": stages}
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    path.write_bytes(built.asm["cubin"])
    dump = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(path)]
    usage = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    stack = int(re.findall(r"STACK:(\d+)", usage)[-1])
    return built.asm["ptx"], built.asm["ttgir"], built.metadata.shared, stack


@pytest.fixture
def cubin(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return tmp_path / "kernel.cubin"


def tile_constants(tiles, x_terms, c_terms, parts=1):
    constants = {"BLOCK_M": tiles.m, "BLOCK_N": tiles.n, "BLOCK_D": tiles.d, "UPCAST": False}
    split = {"X_TERMS": x_terms, "C_TERMS": c_terms, "SCALED": c_terms > 1, "PARTS": parts}
    return constants | split


@pytest.mark.parametrize("parts", [1, 2], ids=["bf16 codebook", "fp32 codebook in two terms"])
@pytest.mark.parametrize("bulk_copies", [True, False])
def test_main_pass_keeps_the_tensor_cores_fed(cubin, bulk_copies, parts):
    tiles = choose_tiles((9, 0), plain=True, bulk_copies=bulk_copies)
    kinds = [f"tensordesc<bf16[{rows},{tiles.d}]>" for rows in (tiles.m, tiles.n)]
    ptx, code, shared, stack = compiled(
        triton_kernels.group_maxima, cubin, *(kinds if tiles.tma else ["*bf16"] * 2), tiles.warps,
        tiles.stages, SPLITS=4, TMA=tiles.tma, **tile_constants(tiles, 1, 1, parts),
    )  # fmt: skip
    assert "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16" in ptx
    assert ("cp.async.bulk.tensor.2d" in ptx) == bulk_copies
    assert stack == 0
    assert shared <= SHARED_BYTES
    # One product stays in flight while the next is issued, and the maxima are taken inside the one
    # loop over groups and D, so that copies for the next group are under way meanwhile.
    assert "pendings = 1" in code
    assert re.search(r'warp_group_dot .*?scf\.if.*?"tt\.reduce"', code, re.DOTALL)


@pytest.mark.parametrize(
    ("x", "codebook", "x_terms"), [("*bf16", "*fp32", 1), ("*fp32", "*fp32", 2)]
)
def test_split_operands_run_on_tensor_cores(cubin, x, codebook, x_terms):
    tiles = choose_tiles((9, 0), plain=False, bulk_copies=False)
    ptx, _, shared, stack = compiled(
        triton_kernels.group_maxima, cubin, x, codebook, tiles.warps, tiles.stages, SPLITS=4,
        TMA=False, **tile_constants(tiles, x_terms, 2),
    )  # fmt: skip
    assert "wgmma.mma_async" in ptx
    assert "cp.async" in ptx
    assert stack == 0
    assert shared <= SHARED_BYTES


@pytest.mark.parametrize(
    "kinds",
    [("*bf16", "*bf16", 1, 1), ("*bf16", "*bf16", 1, 1, 2), ("*fp32", "*fp32", 2, 2)],
    ids=["as given", "two terms", "scaled"],
)
def test_second_look_spills_nothing(cubin, kinds):
    tiles = choose_tiles((9, 0), plain=kinds[0] == "*bf16", bulk_copies=False)
    ptx, _, shared, stack = compiled(
        triton_kernels.find_candidates, cubin, *kinds[:2], tiles.warps, 3,
        **tile_constants(tiles, *kinds[2:]),
    )  # fmt: skip
    assert "wgmma.mma_async" in ptx
    assert stack == 0
    assert shared <= SHARED_BYTES


def test_small_kernels_spill_nothing(cubin):
    pairs = {"BLOCK_P": 8, "BLOCK_D": 128}
    assert compiled(triton_rows.float_scores, cubin, "*bf16", "*fp32", 4, 3, **pairs)[3] == 0
    types = {"scores": "*fp32", "best": "*fp32", "first": "*i64", "second": "*fp32"}
    with pytest.MonkeyPatch.context() as patch:
        for name, kind in types.items():
            patch.setitem(TYPES, name, kind)
        assert compiled(triton_rows.largest_two, cubin, "", "", 4, 3, BLOCK_N=1024)[3] == 0
    piece = {"PIECE": 1024, "BLOCK_R": 16, "BLOCK_D": 256}
    ptx, _, _, stack = compiled(sums._sum_pieces, cubin, "*bf16", "", 4, 3, **piece)
    assert stack == 0
    assert "ld.global.v4" in ptx, "rows are read 16 bytes at a time"
