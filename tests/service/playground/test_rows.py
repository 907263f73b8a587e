"""Rows from the content of a file that a stranger may have made."""

from __future__ import annotations

import io

import numpy as np
import pytest

from recordings.errors import FormatError, ShapeError
from service.playground.rows import read_rows


def saved(values, **options):
    file = io.BytesIO()
    np.save(file, values, **options)
    return file.getvalue()


def with_shape(shape, dtype="<f4", content=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_reads_what_numpy_saves(dtype, order):
    values = np.arange(6).reshape(2, 3).astype(dtype, order=order)
    found = read_rows(saved(values))
    np.testing.assert_array_equal(found, values)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous


def test_one_row_may_lack_its_axis():
    assert read_rows(saved(np.ones(3))).shape == (1, 3)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", FormatError),
        (b"not an array", FormatError),
        (saved(np.ones((2, 3)))[:-1], FormatError),
        (saved(np.ones((2, 3))) + b"x", FormatError),
        # Named as larger than all memory, in a few bytes.
        (with_shape((2**40, 2**20)), FormatError),
        (with_shape((-1, -4), content=bytes(16)), ShapeError),
        (with_shape((0, 4)), ShapeError),
        (saved(np.ones((2, 3, 4))), ShapeError),
        (saved(np.float64(1)), ShapeError),
        (saved(np.ones((2, 3), int)), ShapeError),
        (saved(np.array([{}], object), allow_pickle=True), ShapeError),
    ],
)
def test_refuses_what_holds_no_rows(content, error):
    with pytest.raises(error, match="responses"):
        read_rows(content)
