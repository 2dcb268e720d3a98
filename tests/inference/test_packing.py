"""The packings made by the kernels' library equal naive ones, and refuse masks that do not fit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from billhook.inference import kernels
from billhook.inference.graph import Conv
from billhook.inference.graph.planes import PlaneLayout
from billhook.inference.graph.taps import conv_rows, taps
from billhook.inference.weights import packing
from billhook.inference.weights.csr import to_csr
from billhook.inference.weights.lanes import to_lanes
from billhook.inference.weights.panels import panel_rows

from . import naive_packing as naive

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")


@st.composite
def matrices(draw: st.DrawFn) -> torch.Tensor:
    """Sparse and dense ones, some of 8x1 blocks, with more rows than a chunk or fewer."""
    rows = draw(st.sampled_from([1, 7, 8, 16, 40, 128, 136, 300]))
    columns = draw(st.sampled_from([1, 5, 64, 700, 3000]))
    density = draw(st.sampled_from([0.0, 0.02, 0.3, 1.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    weight = torch.randn(rows, columns, generator=generator)
    mask = torch.rand(rows, columns, generator=generator) < density
    if rows % 8 == 0 and draw(st.booleans()):
        mask = mask[::8].repeat_interleave(8, 0)
    return weight * mask


@settings(max_examples=60, deadline=None)
@given(matrices(), st.sampled_from([8, 64, 128]), st.sampled_from([0, 1, 2]))
def test_matrices_are_packed_as_naively(weight: torch.Tensor, width: int, isa: int) -> None:
    csr, matrix = to_csr(weight), weight.numpy()
    shared = naive.shares(matrix)
    assert packing.shares_columns(csr.struct) == shared
    lanes = to_lanes(csr)
    arrays = (lanes.group_ptr, lanes.column, lanes.value, lanes.row)
    assert tuple(a.ravel().tolist() for a in arrays) == naive.lanes(matrix)
    blocks = panel_rows(csr, width, None, isa).blocks
    ends = [*(b.first_column for b in blocks[1:]), matrix.shape[1]]
    assert blocks[0].first_column == 0
    for block, end in zip(blocks, ends, strict=True):
        rows = np.arange(len(matrix)) if block.row is None else block.row
        found = [a.ravel().tolist() for a in (block.row_ptr, block.place, block.value, rows)]
        assert tuple(found) == naive.block(matrix, block.first_column, end, shared)
        assert (block.row is None) == shared


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_convolutions_are_packed_as_naively(data: st.DataObject) -> None:
    groups, inputs = data.draw(st.sampled_from([1, 2, 4])), data.draw(st.integers(1, 4))
    filters = groups * data.draw(st.sampled_from([1, 3, 8, 16]))
    kernel = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)))
    stride = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    dilation = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    top, left = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
    weight = torch.randn(filters, inputs, *kernel, generator=torch.Generator().manual_seed(0))
    if data.draw(st.booleans()):
        weight *= torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    conv = Conv("c", (0,), (filters, 4, 4), "none", weight, None, stride, (top, left, 0, 0))
    conv = Conv(**{**vars(conv), "dilation": dilation, "groups": groups})
    layout = PlaneLayout(9, 9, 13, 16, 32)
    wanted = naive.offsets(
        tuple(weight.shape), (stride, dilation, (top, left)), layout.size, layout.pitch
    )
    own = taps(conv, layout.size, layout.pitch)
    assert packing.tap_offsets(own).tolist() == wanted
    rows = conv_rows(conv, own, to_csr(weight))
    by_group = inputs * stride[0] * stride[1] * layout.size
    for r, row in enumerate(weight.flatten(1)):
        first = rows.row_ptr[r // rows.group : r // rows.group + 2]
        some = slice(int(first[0]), int(first[1]))
        base = r // (filters // groups) * by_group
        columns = torch.nonzero(row).flatten().tolist()
        assert rows.place[some].tolist() == [base + wanted[c] for c in columns]
        values = rows.value.reshape(-1, rows.group)[some, r % rows.group]
        assert values.tolist() == row[columns].tolist()


@given(st.integers(0, 5), st.integers(1, 40), st.integers(0, 2**32 - 1), st.integers(-1, 1))
def test_a_mask_that_does_not_fit_is_refused(rows: int, columns: int, seed: int, slip: int) -> None:
    bits = np.random.default_rng(seed).random(rows * columns) < 0.4
    mask = np.packbits(bits, bitorder="little")
    count = int(bits.sum()) + slip
    found = packing.rows_of_mask(mask, rows, columns, max(count, 0))
    if slip or count < 0:
        assert found is None or count < 0
        return
    assert found is not None
    csr = to_csr(torch.from_numpy(bits.reshape(rows, columns).astype(np.float32)))
    assert found[0].tolist() == csr.row_ptr.tolist()
    assert found[1].tolist() == csr.column.tolist()
    if len(mask) and rows * columns % 8:
        mask[-1] |= 0x80  # beyond the last element
        assert packing.rows_of_mask(mask, rows, columns, count + 1) is None
