"""Designs fill their box evenly, are the same for the same seed, and go on where they stood."""

import numpy as np
import pytest

from pal.errors import ContractError, KernelImportError
from pal.kernels.generators.space_filling import LatinHypercube, Uniform
from pal.records import Feedback
from pal.roles import STOP
from pal.testing.checks import check_generator

LOWER, UPPER = [-1.0, 10.0, 0.0], [1.0, 30.0, 1e-3]
HEARD = Feedback(np.zeros(1), np.zeros(1), 0.0, False, 0)


@pytest.fixture
def make(context):
    def build(kind=LatinHypercube, index=0, **options):
        return kind(context(index), **{"lower": LOWER, "upper": UPPER, "count": 16} | options)

    return build


def walk(walker, steps):
    return [walker.step(HEARD if number else None) for number in range(steps)]


def slices(points, count):
    """Which of `count` slices of each parameter the points are in, sorted, (points, n)."""
    unit = (np.array(points) - LOWER) / (np.array(UPPER) - LOWER)
    assert unit.min() >= 0
    assert unit.max() <= 1
    return np.sort(np.floor(unit * count), axis=0)


@pytest.mark.parametrize("options", [{}, {"design": "sobol"}])
def test_each_slice_of_every_parameter_holds_one_point(make, options):
    everyone = np.arange(16)[:, None].repeat(3, axis=1)
    np.testing.assert_array_equal(slices(list(make(**options)), 16), everyone)
    np.testing.assert_array_equal(slices(walk(make(**options), 16), 16), everyone)


def test_sobol_points_are_even_in_two_parameters_together(make):
    points = np.array(list(make(design="sobol", lower=[0, 0], upper=[1, 1])))
    cells = np.floor(points * 4)
    assert len(np.unique(cells, axis=0)) == 16


def test_chance_fills_the_box(make):
    points = np.array(walk(make(Uniform, count=2000), 2000))
    np.testing.assert_allclose(points.mean(axis=0), [0.0, 20.0, 5e-4], rtol=0.06, atol=0.05)
    assert slices(points, 4)[0].max() == 0


@pytest.mark.parametrize("kind", [LatinHypercube, Uniform])
def test_keeps_the_contract(make, kind):
    check_generator(lambda: make(kind), lambda sample: HEARD)
    check_generator(lambda: make(kind, name="parameters"), lambda sample: HEARD)


@pytest.mark.parametrize("kind", [LatinHypercube, Uniform])
def test_the_same_seed_gives_the_same_points_and_others_differ(make, kind):
    one, same, other = (np.array(walk(make(kind, index), 20)) for index in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.isclose(one, other).any()
    assert not np.isclose(one[:4], one[16:]).any()


@pytest.mark.parametrize("kind", [LatinHypercube, Uniform])
def test_walkers_share_a_design_of_one_seed(make, kind):
    together = np.concatenate([walk(make(kind, index, seed=5), 4) for index in range(4)])
    whole = np.concatenate([list(make(kind, index, seed=5)) for index in range(4)])
    np.testing.assert_array_equal(together, whole)
    assert len(np.unique(together[:, 0])) == 16
    if kind is LatinHypercube:
        np.testing.assert_array_equal(slices(together, 16)[:, 0], np.arange(16))


@pytest.mark.parametrize("kind", [LatinHypercube, Uniform])
def test_stops_at_the_end_if_it_should(make, kind):
    walker = make(kind, at_end="stop")
    points = walk(walker, 18)
    assert all(isinstance(point, np.ndarray) for point in points[:16])
    assert points[16:] == [STOP, STOP]
    other = make(kind, at_end="stop")
    other.set_state(walker.get_state())
    assert other.step(None) is STOP


def double(design):
    return {"image": np.outer(design, design)}


def total(design):
    return float(design.sum())


def test_a_point_becomes_a_sample_bare_named_or_rendered(make):
    assert make().step(None).shape == (3,)
    assert list(make(name="x").step(None)) == ["x"]
    image = make(render=f"{__name__}:double").step(None)
    assert image["image"].shape == (3, 3)
    with pytest.raises(ContractError, match="returned float; expected a numpy array"):
        make(render=f"{__name__}:total").step(None)
    with pytest.raises(ContractError, match="returned dict"):
        make(render=f"{__name__}:double", name="image").step(None)
    with pytest.raises(KernelImportError, match="'nowhere:at_all' cannot be imported"):
        make(render="nowhere:at_all")


def test_samples_are_given_away(make):
    walker = make()
    walker.step(None)[:] = 0
    assert walker.step(None).any()


@pytest.mark.parametrize("kind", [LatinHypercube, Uniform])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"upper": [1.0]}, "got 3 and 1"),
        ({"lower": [], "upper": []}, "at least one"),
        ({"lower": [2.0, 0.0, 0.0]}, "lower < upper"),
        ({"lower": [float("nan"), 0.0, 0.0]}, "finite"),
        ({"count": 0}, "expected count >= 1"),
        ({"at_end": "never"}, "at_end = 'never'"),
    ],
)
def test_bad_options_are_refused(make, kind, options, message):
    with pytest.raises(ContractError, match=message):
        make(kind, **options)


def test_bad_designs_are_refused(make):
    with pytest.raises(ContractError, match="design = 'grid'"):
        make(design="grid")
    with pytest.raises(ContractError, match="power of 2 as count; got 12"):
        make(design="sobol", count=12)
    with pytest.raises(ContractError, match="expected count >= 4"):
        make(index=3, seed=1, count=2)
