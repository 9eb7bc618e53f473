"""The kernels of this campaign: a walker, a model and an oracle. Replace them by your own.

Walkers wander over a landscape that none of them knows. A committee of small models learns it
from the few points the oracle computes, chosen where the models disagree. The landscape is the
one of Müller and Brown, Theor. Chim. Acta 53, 75 (1979): three valleys between steep walls.

`python kernels.py` writes `heldout.npz` anew.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import pal

LOW, HIGH = np.array([-1.6, -0.4]), np.array([1.2, 1.9])
"""The corners of the part of the plane that is explored."""


class Walker:
    """Explores. PAL calls `step` with the committee's answer to the sample returned before.

    This one is a Monte Carlo walk: a random move is accepted if it leads downhill, or uphill by
    not too much. What is down, it only knows from the committee.
    """

    def __init__(
        self, context: pal.Context, temperatures: Sequence[float] = (20.0,), move: float = 0.2
    ) -> None:
        # The options come from the settings; `context` says which walker this is. Its seed is
        # another one for each walker, and the same in every run.
        self._random = np.random.default_rng(context.seed)
        self._temperature = temperatures[context.index % len(temperatures)]
        self._move = move
        self._position = self._proposal = np.array([0.6, 0.0])
        self._energy = np.inf

    def step(self, feedback: pal.Feedback | None) -> dict[str, Any]:
        """Return the next sample: named arrays, of any shape. `feedback` is None at first."""
        if feedback is not None:
            self._decide(feedback)
        jump = self._random.normal(0.0, self._move, 2)
        self._proposal = np.clip(self._position + jump, LOW, HIGH)
        return {"x": self._proposal}

    def _decide(self, feedback: pal.Feedback) -> None:
        # `feedback.trusted` and `feedback.uncertainty` are there as well. Here walkers may go
        # where the models are unsure: that is where there is something to learn.
        energy = float(feedback.mean["energy"])
        chance = np.exp(min(0.0, (self._energy - energy) / self._temperature))
        if self._random.random() < chance:
            self._position, self._energy = self._proposal, energy

    # These two are optional in every role. With them, a walker survives a crash, and a restart
    # of the campaign, where it stood.

    def get_state(self) -> Any:
        """Return anything that can be pickled."""
        return self._position, self._energy, self._random.bit_generator.state

    def set_state(self, state: Any) -> None:
        """Go on from there."""
        self._position, self._energy, self._random.bit_generator.state = state


class Network:
    """Learns: one member of the committee, a network with one hidden layer.

    The hidden layer is random and stays so; the output layer is a least-squares fit. Members
    differ by their hidden layers, so they agree near the data and disagree far from them.
    """

    def __init__(self, context: pal.Context, hidden: int = 150, ridge: float = 1e-4) -> None:
        random = np.random.default_rng(context.seed)
        self._ridge = ridge
        self._weights = {
            "slopes": random.normal(0.0, 2.0, (2, hidden)),
            "shifts": random.uniform(-np.pi, np.pi, hidden),
            "output": np.zeros(hidden),
            "constant": np.zeros(()),
        }

    def predict(self, samples: pal.Batch) -> dict[str, Any]:
        """Return labels for n samples, each name as one array of shape (n, ...)."""
        output, constant = self._weights["output"], self._weights["constant"]
        return {"energy": self._hidden(samples["x"]) @ output + constant}

    def train(self, dataset: list[pal.LabelledSample]) -> Iterator[dict[str, float]]:
        """Fit the dataset, and yield the metrics of each epoch. Here there is only one."""
        x = np.array([item.sample["x"] for item in dataset])
        energy = np.array([item.label["energy"] for item in dataset])
        hidden = self._hidden(x)
        constant = energy.mean()
        square = hidden.T @ hidden + self._ridge * np.eye(hidden.shape[1])
        output = np.linalg.solve(square, hidden.T @ (energy - constant))
        self._weights = {**self._weights, "output": output, "constant": constant}
        errors = hidden @ output + constant - energy
        yield {"loss": float((errors**2).mean())}

    def _hidden(self, x: Any) -> Any:
        return np.tanh(x @ self._weights["slopes"] + self._weights["shifts"])

    def get_weights(self) -> dict[str, Any]:
        """Return all that prediction depends on, as named arrays."""
        return self._weights

    def set_weights(self, weights: dict[str, Any]) -> None:
        """Take over what `get_weights` returned."""
        self._weights = dict(weights)


class Oracle:
    """Knows the truth, and takes its time: here your simulation or experiment goes."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds

    def label(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the label: named arrays, with the names that the model predicts."""
        time.sleep(self._seconds)
        energy = landscape(sample["x"])
        if energy > 1000.0:
            # Not an error: this sample has no label, and the campaign goes on without it.
            raise pal.LabelFailure(f"the energy is {energy:.0f}: too far up a wall")
        return {"energy": np.asarray(energy)}


def first(count: int = 10) -> Iterator[dict[str, Any]]:
    """Yield the samples that are labelled before the walkers start."""
    random = np.random.default_rng(0)
    for _ in range(count):
        yield {"x": random.normal([0.6, 0.0], 0.15)}


def landscape(x: Any) -> Any:
    """Return the energy at x, an array of shape (..., 2)."""
    u, v = x[..., 0], x[..., 1]
    return (
        -200 * np.exp(-1.0 * (u - 1.0) ** 2 - 10.0 * v**2)
        - 100 * np.exp(-1.0 * u**2 - 10.0 * (v - 0.5) ** 2)
        - 170 * np.exp(-6.5 * (u + 0.5) ** 2 + 11.0 * (u + 0.5) * (v - 1.5) - 6.5 * (v - 1.5) ** 2)
        + 15 * np.exp(0.7 * (u + 1.0) ** 2 + 0.6 * (u + 1.0) * (v - 1.0) + 0.7 * (v - 1.0) ** 2)
    )


def heldout(count: int = 200) -> Any:
    """Return points, (count, 2), on which the models are judged: evenly over the valleys."""
    random = np.random.default_rng(1)
    points = random.uniform(LOW, HIGH, (20 * count, 2))
    return points[landscape(points) < -30.0][:count]


if __name__ == "__main__":
    x = heldout()
    np.savez("heldout.npz", **{"sample/x": x, "label/energy": landscape(x)})
