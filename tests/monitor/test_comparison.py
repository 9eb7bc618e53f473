import numpy as np
import pytest

from pal.monitor.comparison import (
    CampaignData,
    bands,
    common_error,
    curve,
    rank_correlation,
)
from pal.monitor.metrics import Evaluation


def falling(scale: float, labels: tuple[int, ...] = (10, 20, 40, 80)) -> list[Evaluation]:
    return [
        Evaluation(count, version, scale / count, 1.3 * scale / count, "meV/Å")
        for version, count in enumerate(labels)
    ]


def test_the_last_version_at_each_number_of_labels_counts() -> None:
    evaluations = [
        Evaluation(20, 3, 5.0, 6.0, ""),
        Evaluation(10, 1, 9.0, 9.0, ""),
        Evaluation(20, 2, 7.0, 8.0, ""),
        Evaluation(30, 4, float("nan"), 0.0, ""),
    ]
    labels, errors = curve(evaluations)
    assert labels.tolist() == [10, 20]
    assert errors.tolist() == [9.0, 5.0]


def test_a_band_spans_its_seeds_where_all_of_them_were_measured() -> None:
    seeds = [
        CampaignData("active", falling(100.0), 0),
        CampaignData("active", falling(200.0, (20, 40, 80, 160)), 1),
        CampaignData("random", falling(400.0), 0),
        CampaignData("never measured", [], 0),
    ]
    active, random = bands(seeds)
    assert (active.name, random.name) == ("active", "random")
    assert active.labels.tolist() == [20, 40, 80]
    np.testing.assert_allclose(active.low, [5, 2.5, 1.25])
    np.testing.assert_allclose(active.high, [10, 5, 2.5])
    np.testing.assert_allclose(active.mean, (active.low + active.high) / 2)
    assert active.spent == (80, 160)
    assert active.finals == (1.25, 1.25)


def test_labels_until_an_error_lie_between_the_evaluations_around_it() -> None:
    (band,) = bands([CampaignData("active", falling(100.0))])
    assert band.labels_until(5.0) == 20
    assert band.labels_until(7.5) == pytest.approx(15)
    assert band.labels_until(1000.0) == 10
    assert band.labels_until(0.01) is None


def test_the_common_error_is_reached_by_every_band() -> None:
    found = bands([CampaignData("a", falling(100.0)), CampaignData("b", falling(400.0))])
    error = common_error(found)
    assert error == 5.0
    assert all(band.labels_until(error) is not None for band in found)
    assert common_error([]) is None


def test_seeds_without_common_labels_give_an_empty_band_but_their_final_errors() -> None:
    seeds = [
        CampaignData("a", falling(100.0, (10, 20))),
        CampaignData("a", falling(100.0, (40, 80))),
    ]
    (band,) = bands(seeds)
    assert not band.labels.size
    assert band.finals == (5.0, 1.25)
    assert common_error([band]) is None
    assert band.labels_until(5.0) is None


def test_rank_correlation_depends_on_order_alone() -> None:
    values = np.array([3.0, 1.0, 4.0, 1.5, 9.0])
    assert rank_correlation(values, np.exp(values)) == pytest.approx(1.0)
    assert rank_correlation(values, -(values**3)) == pytest.approx(-1.0)
    assert np.isnan(rank_correlation(values, np.ones(5)))


def test_rank_correlation_shares_ranks_between_ties() -> None:
    first = np.array([1.0, 2.0, 2.0, 3.0])
    second = np.array([1.0, 3.0, 2.0, 4.0])
    # Ranks (1, 2.5, 2.5, 4) and (1, 3, 2, 4): covariance 4.5 over sqrt(4.5 * 5).
    assert rank_correlation(first, second) == pytest.approx(4.5 / np.sqrt(4.5 * 5.0))
