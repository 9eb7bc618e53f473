import math

import pytest

from pal.monitor import text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (812.34, "812"),
        (0.012345, "0.0123"),
        (99.96, "100"),
        (999.7, "1,000"),
        (123456.0, "123,456"),
        (0.0, "0"),
        (-2.5, "-2.5"),
        (3e-7, "3.00e-07"),
        (None, "-"),
        (math.nan, "-"),
    ],
)
def test_figure_has_three_significant_digits(value: float | None, shown: str) -> None:
    assert text.figure(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (2.34, "2.3 s"),
        (59.4, "59 s"),
        (59.7, "1 min 00 s"),
        (192.3, "3 min 12 s"),
        (3599.6, "1 h 00 min"),
        (3 * 3600 + 300, "3 h 05 min"),
        (86400 - 1, "23 h 59 min"),
        (2 * 86400 + 4 * 3600, "2 d 04 h"),
    ],
)
def test_duration_shows_the_two_units_that_matter(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


def test_rare_is_not_shown_as_never() -> None:
    assert text.percent(0.004) == "0.4 %"
    assert text.percent(0.0) == "0 %"
    assert text.percent(1.0) == "100 %"


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("fraction", [-1.0, 0.0, 0.3, 1.0, 7.0, math.nan])
def test_a_bar_has_its_width_whatever_the_value(fraction: float, ascii_only: bool) -> None:
    full, empty = text.bar(fraction, 20, ascii_only=ascii_only)
    assert len(full + empty) == 20
    assert (full + empty).isascii() == ascii_only


def test_sparkline_is_tallest_at_the_maximum_and_survives_nan() -> None:
    assert text.sparkline([0.0, 0.5, 1.0, math.nan]) == "▁▅█▁"
    assert text.sparkline([]) == ""
    assert text.sparkline([0.0, 0.0]) == "▁▁"
    assert text.sparkline([0.0, 1.0], ascii_only=True).isascii()


def test_improvement_says_smaller_larger_or_nothing() -> None:
    assert text.improvement(812, 121) == "6.7 times smaller"
    assert text.improvement(10, 25) == "2.5 times larger"
    assert text.improvement(10, 10.01) == "unchanged"
    assert text.improvement(1234, 1) == "1,234 times smaller"
    assert text.improvement(0, 1) == ""
    assert text.improvement(math.nan, 1) == ""


def test_error_is_named_after_the_field() -> None:
    assert text.error_name("forces") == "Force error"
    assert text.error_name("energy") == "Energy error"
    assert text.error_name("stress") == "Stress error"
    assert text.error_name("") == "Error"


def test_known_kernels_come_first_in_a_fixed_order() -> None:
    assert text.kernels({"zeta": 1, "training": 1}, {"generator": 1, "alpha": 1}) == [
        "generator",
        "training",
        "alpha",
        "zeta",
    ]


def test_finite_leaves_no_nan_for_json() -> None:
    assert text.finite({"a": (1.0, math.inf), "b": {"c": math.nan}, "d": "x"}) == {
        "a": [1.0, None],
        "b": {"c": None},
        "d": "x",
    }
