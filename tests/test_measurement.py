import copy
import pickle

import numpy as np
import pytest
import torch

from probes import Axis, Measurement


def test_measurement_numbers_the_dimensions_that_have_no_coords():
    item = Measurement("a/b", torch.ones(3), dims=("layer",))
    np.testing.assert_array_equal(item.coords["layer"].values, [0, 1, 2])


def test_measurement_keeps_no_reference_to_the_tensor():
    weight = torch.zeros(2)
    item = Measurement("a", weight, dims=("i",))
    weight.add_(1)
    np.testing.assert_array_equal(item.value, [0, 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_measurement_of_half_precision_is_float32(dtype):
    assert Measurement("a", torch.ones((), dtype=dtype)).value.dtype == np.float32


def test_measurement_keeps_complex_values():
    assert Measurement("a", torch.tensor([1 + 2j]), dims=("k",)).value[0] == 1 + 2j


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "..", "a/../b", "a b", "a\nb", 3])
def test_measurement_rejects_a_name_that_is_no_path(name):
    with pytest.raises(ValueError, match="`name` of a measurement must be a path"):
        Measurement(name, 1.0)


@pytest.mark.parametrize("dims", [(), ("i", "j"), ("i", "i")])
def test_measurement_rejects_dims_that_do_not_fit(dims):
    with pytest.raises(ValueError, match=r"`dims` of measurement 'a' must name each of the 1 dimensions"):
        Measurement("a", [1.0, 2.0], dims=dims)


@pytest.mark.parametrize("dim", ["step", "value", "standard_error", "wall_time", "part", "i/j", "", "..", 3])
def test_measurement_rejects_names_of_dims_that_a_table_cannot_have(dim):
    with pytest.raises(ValueError, match=rf"`dims` of measurement 'a' must be texts .*: got {dim!r}"):
        Measurement("a", [1.0], dims=(dim,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": None}, "`unit` of measurement 'a' must be a text, got None"),
        ({"estimator": 3}, "`estimator` of measurement 'a' must be a text, got 3"),
        ({"description": b"x"}, "`description` of measurement 'a' must be a text, got b'x'"),
        ({"num_samples": "many"}, "`num_samples` of measurement 'a' must be a whole number, got 'many'"),
        ({"num_samples": 2.5}, "`num_samples` of measurement 'a' must be a whole number, got 2.5"),
        (
            {"coords": {"k": Axis([1], None)}},
            r"Unit and description of `coords\['k'\]` of measurement 'a' must be",
        ),
        ({"coords": {"k": [[1, 2], [3]]}}, r"`coords\['k'\]` of measurement 'a' cannot be read by numpy"),
    ],
)
def test_measurement_rejects_what_no_reader_understands(settings, message):
    with pytest.raises(TypeError, match=message):
        Measurement("a", [1.0], ("k",), **settings)


def test_measurement_rejects_a_value_without_entries_and_a_complex_error_of_a_real_one():
    with pytest.raises(ValueError, match=r"The value of measurement 'a' has no entries \(shape \(0,\)\)"):
        Measurement("a", np.zeros(0), ("k",))
    with pytest.raises(ValueError, match="`standard_error` of measurement 'a' is complex"):
        Measurement("a", 1.0, standard_error=1j)


def test_lists_of_tensors_and_coordinates_of_any_precision_are_taken():
    weight = torch.ones((), requires_grad=True)
    places = torch.tensor([1, 2], dtype=torch.bfloat16)
    item = Measurement("a", [weight, 2 * weight], ("k",), {"k": places}, num_samples=np.int64(3))
    assert item.value.tolist() == [1, 2] and item.coords["k"].values.dtype == np.float32
    assert type(item.num_samples) is int
    with pytest.raises(TypeError, match=r"numpy can read, got Tensor of layout torch.strided, torch.float32, on meta"):
        Measurement("a", torch.ones(2, device="meta"), ("k",))


def test_measurement_rejects_coords_of_another_length():
    with pytest.raises(ValueError, match=r"`coords\['k'\]` of measurement 'a' has shape \(3,\)"):
        Measurement("a", [1.0, 2.0], dims=("k",), coords={"k": Axis([1, 2, 3])})


def test_measurement_rejects_a_standard_error_of_another_shape():
    with pytest.raises(ValueError, match="`standard_error` of measurement 'a' must have the shape of its value"):
        Measurement("a", [1.0, 2.0], dims=("k",), standard_error=1.0)


@pytest.mark.parametrize("value", ["1", None, object(), [1.0, "a"]])
def test_measurement_rejects_what_is_no_number(value):
    with pytest.raises(TypeError, match="must be a number or an array of numbers"):
        Measurement("a", value, dims=("k",) if isinstance(value, list) else ())


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (Measurement("a", [1.0, 2.0, 3.0], dims=("k",)), "shape changed"),
        (Measurement("a", [1.0, 2.0], dims=("j",)), "dims changed"),
        (Measurement("a", [1.0, 2.0], dims=("k",), unit="s"), "unit changed"),
        (Measurement("a", [1.0, 2.0], dims=("k",), coords={"k": [5, 6]}), "coordinates of 'k' changed"),
        (Measurement("a", [1.0, 2.0j], dims=("k",)), "dtype changed"),
        (Measurement("a", [1.0, 2.0], dims=("k",), standard_error=[0.0, 0.0]), "standard error"),
    ],
)
def test_disagreement_of_a_stream_is_named(other, reason):
    assert reason in Measurement("a", [1.0, 2.0], dims=("k",)).disagreement(other)


def test_measurements_of_one_kind_agree():
    assert Measurement("a", [1.0], dims=("k",)).disagreement(Measurement("a", [7.0], dims=("k",))) is None


def test_whole_numbers_and_real_ones_share_a_stream_where_nothing_is_lost():
    assert Measurement("a", 0).value.dtype == np.float64 and Measurement("a", True).value.dtype == bool
    whole, real = Measurement("a", np.int64(3)), Measurement("a", 0.5)
    assert whole.disagreement(Measurement("a", 4.0)) is None is real.disagreement(whole)
    for other in (real, Measurement("a", np.nan), Measurement("a", 1e300), Measurement("a", 1j)):
        assert "dtype changed" in whole.disagreement(other)
    assert "dtype changed" in Measurement("a", np.uint8(3)).disagreement(Measurement("a", -1.0))
    assert "dtype changed" in real.disagreement(Measurement("a", np.int64(2**53 + 1)))


def test_whole_numbers_keep_all_of_their_digits():
    for number in (2**62 + 1, -(2**63), 2**63 + 1, 2**53 + 1, 2**100, 3):
        item = Measurement("a", number)
        assert item.value.item() == number, number
        assert (item.value.dtype == np.float64) == (float(number) == number)
    for number, bits in ((2**64 + 1, 65), (-(10**400), 1329)):
        with pytest.raises(TypeError, match=rf"of at most 64 bits, got one of {bits}\. Pass float\(value\)"):
            Measurement("a", number)


def test_what_several_sinks_are_given_is_read_only():
    with pytest.raises(ValueError, match="read-only"):
        Measurement("a", [1.0], ("k",)).coords["k"].values[0] = 5
    item = Measurement("a", [1.0], ("k",)).taken(0, 0.0, "", "")
    with pytest.raises(ValueError, match="read-only"):
        item.value[0] = 5
    with pytest.raises(TypeError, match="does not support item assignment"):
        item.coords["k"] = Axis([5])
    for other in (pickle.loads(pickle.dumps(item)), copy.deepcopy(item)):
        assert other.coords["k"].values.tolist() == [0] and other.value.tolist() == [1.0]


@pytest.mark.parametrize(("bad", "escape"), [("a\0b", r"a\x00b"), ("a\ud800b", r"a\ud800b")])
def test_what_no_file_takes_becomes_an_escape_in_every_text(bad, escape):
    item = Measurement("a", [1.0, 2.0], (bad,), {bad: Axis([bad, "é\n"], bad, bad)}, bad, None, bad, 1, bad)
    item = item.taken(0, 0.0, bad, bad)
    axis = item.coords[escape]
    assert axis.values.tolist() == [escape, "é\n"] and (axis.unit, axis.description) == (escape, escape)
    assert item.dims == (escape,)
    assert (item.unit, item.estimator, item.description, item.probe, item.version) == (escape,) * 5


def test_coordinates_that_are_nan_do_not_change():
    first, second = (Measurement("a", [1.0, 2.0], ("k",), {"k": [np.nan, 1.0]}) for _ in range(2))
    assert first.disagreement(second) is None
    other = Measurement("a", [1.0, 2.0], ("k",), {"k": [np.nan, 2.0]})
    assert first.disagreement(other) == "the coordinates of 'k' changed"
    assert first.disagreement(Measurement("a", [1.0, 2.0], ("k",), {"k": ["nan", "1.0"]})) is not None
