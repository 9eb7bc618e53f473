"""What is SchNet's own; test_graph_potentials.py holds what is true of every graph network."""

import numpy as np
import potential_physics as physics
import pytest
import torch

from pal.kernels.models.schnet import SchNet, interaction, schnet

SMALL = {"hidden": 16, "filters": 16, "interactions": 2, "gaussians": 12, "batch_size": 4}


@pytest.fixture
def make(context):
    def build(index=0, **options):
        return schnet(context(index), **{**SMALL, "precision": "float64", **options})

    return build


def test_learns_from_molecules_of_different_sizes(make):
    metrics = physics.learn(make(), physics.mixture(24), 30)
    assert metrics[-1]["force_mae"] < 0.6 * metrics[0]["force_mae"]


def test_the_interaction_is_that_of_torch_geometric(make):
    network = SchNet(
        (1, 6, 8), hidden=8, filters=8, interactions=1, gaussians=6, cutoff=4.0
    ).double()
    graphs = make(cutoff=4.0).graphs([physics.distorted("CH3OH")])
    block = network.interactions[0]
    features = torch.randn(6, 8, dtype=torch.float64)
    lengths = graphs.vectors().norm(dim=-1)
    theirs = block(features, graphs.edges, lengths, network.expansion(lengths))
    fade = 0.5 * (torch.cos(lengths * np.pi / 4.0) + 1)
    mine = interaction(block, features, network.expansion(lengths), fade, graphs)
    torch.testing.assert_close(mine, theirs)
