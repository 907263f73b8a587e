"""Arrays on the wire: every array comes back as it went, and no message that lies about itself becomes an array."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recordings.errors import InputError, NotFiniteError, ShapeError
from service.errors import BudgetError
from service.generated.penfield.v1 import tensor_pb2
from service.tensors import DTYPES, MAX_AXES, to_array, to_tensor

FLOAT32 = tensor_pb2.DATA_TYPE_FLOAT32
arrays = hnp.arrays(st.sampled_from(list(DTYPES.values())), hnp.array_shapes(min_dims=0, max_dims=5, min_side=0))
quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(arrays)
def test_array_comes_back_as_it_went(array: np.ndarray) -> None:
    wire = tensor_pb2.Tensor.FromString(to_tensor(array).SerializeToString())
    back = to_array(wire, name="x", finite=False)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_bytes_are_little_endian_and_row_major_whatever_the_memory_holds(dtype: np.dtype) -> None:
    array = np.arange(6).reshape(2, 3) % 2
    for laid_out in (
        array.astype(dtype.newbyteorder(">")),
        np.asfortranarray(array.astype(dtype)),
        array.astype(dtype),
    ):
        tensor = to_tensor(laid_out)
        assert tensor.data == array.astype(dtype.newbyteorder("<")).tobytes("C")
        np.testing.assert_array_equal(to_array(tensor, name="x"), array.astype(dtype))


def test_array_is_a_view_that_cannot_be_written() -> None:
    array = to_array(to_tensor(np.ones(3, np.float32)), name="x")
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 2


@pytest.mark.parametrize("dtype", [np.complex64, np.int8, np.uint32, object, "datetime64[s]", "U3"])
def test_types_without_a_place_on_the_wire_are_refused(dtype: object) -> None:
    with pytest.raises(ShapeError, match="cannot be sent"):
        to_tensor(np.zeros(2, dtype))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("shape", "data", "words"),
    [
        ([2], b"1234", "8"),
        ([1], b"12345", "5 bytes"),
        ([], b"", "takes 4"),
        ([-1], b"", "negative"),
        ([-1, -1], b"1234", "negative"),
        ([2**62, 2**62, 0], b"", "cannot have the shape"),
        ([2**32, 2**32], b"", "cannot have the shape"),
        ([2**62], b"1234", "cannot have the shape"),
        ([0, 2**61], b"", "cannot have the shape"),
        ([1] * (MAX_AXES + 1), b"1234", "axes"),
        ([1] * 100_000, b"1234", "axes"),
    ],
)
def test_shape_that_is_not_that_of_the_bytes_is_refused(shape: list[int], data: bytes, words: str) -> None:
    with pytest.raises(ShapeError, match=words) as caught:
        to_array(tensor_pb2.Tensor(dtype=FLOAT32, shape=shape, data=data), name="responses")
    assert caught.value.where == "responses"


@quick
@given(st.integers(0, 12), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5), st.binary(max_size=64))
def test_random_message_becomes_an_array_of_its_shape_or_an_input_error(
    kind: int, shape: list[int], data: bytes
) -> None:
    try:
        array = to_array(tensor_pb2.Tensor(dtype=kind, shape=shape, data=data), name="x")  # type: ignore[arg-type]
    except InputError:
        return
    assert list(array.shape) == shape
    assert array.nbytes == len(data)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_value_that_is_not_finite_is_named_by_its_index(value: float, dtype: str) -> None:
    array = np.zeros((3, 4), dtype)
    array[2, 1] = value
    with pytest.raises(NotFiniteError, match=r"responses: holds -?(nan|inf) at \[2, 1\]"):
        to_array(to_tensor(array), name="responses")
    np.testing.assert_array_equal(to_array(to_tensor(array), name="responses", finite=False), array)


def test_scalar_that_is_not_finite_is_refused() -> None:
    with pytest.raises(NotFiniteError, match=r"at \[\]"):
        to_array(to_tensor(np.array(np.nan, np.float32)), name="x")


def test_truth_value_other_than_0_and_1_is_refused() -> None:
    tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_BOOL, shape=[2, 2], data=b"\0\1\1\2")
    with pytest.raises(InputError, match=r"holds 2 at \[1, 1\]"):
        to_array(tensor, name="mask")


def test_dtype_axes_and_size_are_those_asked_for() -> None:
    tensor = to_tensor(np.zeros((2, 3)))
    assert to_array(tensor, name="x", dtypes={"float64"}, ndim=2, max_bytes=48).shape == (2, 3)
    with pytest.raises(ShapeError, match=r"x: holds float64. Send float32"):
        to_array(tensor, name="x", dtypes={"float32"})
    with pytest.raises(ShapeError, match="2 axes, not 1"):
        to_array(tensor, name="x", ndim=1)
    with pytest.raises(BudgetError, match="48 bytes, more than the limit of 47"):
        to_array(tensor, name="x", max_bytes=47)


@pytest.mark.parametrize("kind", [0, 9, 2_000_000_000])
def test_unknown_dtype_is_refused(kind: int) -> None:
    with pytest.raises(ShapeError, match="no dtype"):
        to_array(tensor_pb2.Tensor(dtype=kind), name="x")  # type: ignore[arg-type]
