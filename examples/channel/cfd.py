"""Steady laminar flow and heat in a channel that repeats itself, by finite elements.

Units: the channel's height H, the bulk velocity U, the fluid's density and heat capacity, and
the heat flux q into each wall, are 1. The Reynolds number is U 2H / viscosity, as usual with the
hydraulic diameter 2H; promoters are adiabatic. The flow is fully developed: velocity u, and
pressure but for its mean gradient -G, are the same in every period, and the temperature rises by
gamma x (Patankar, Liu and Sparrow, J. Heat Transfer 99, 180 (1977)):

    u . grad u = -grad p + G e_x + laplace(u) / Re_H,        div u = 0
    u . grad t = laplace(t) / (Re_H Pr) - gamma u_x,         T = gamma x + t

G is found such that the flow rate is U H. The drag coefficient is the force of the channel on
the fluid by area of the walls, Cf = (G H / 2) / (rho U^2 / 2), and the Stanton number
St = q / (rho c U (mean wall temperature - bulk temperature)). The empty channel has
Cf = 24 / Re, and St Re Pr = 140 / 17.

Velocity and temperature are quadratic on each triangle, the pressure is linear (Taylor and Hood,
Computers and Fluids 1, 73 (1973)); Newton's method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry import Array, Channel, channel
from mesh import Mesh, mesh
from scipy.sparse import bmat
from scipy.sparse.linalg import splu
from skfem import (
    Basis,
    BilinearForm,
    ElementTriP1,
    ElementTriP2,
    ElementVector,
    LinearForm,
    MeshTri1DG,
)
from skfem.helpers import ddot, div, dot, grad

from pal.errors import LabelFailure

STEPS = 15
"""Newton's steps after which it will not converge any more."""
NEARLY = 1e-2
"""Largest change of the velocity after which the next one is about its square, and not made."""
NEARLY_NONE = 1e-9
"""Compressibility, and loss of heat, that choose one pressure, and one temperature, of all those
that differ by a constant: those whose means are zero."""


@dataclass(frozen=True)
class Flow:
    """A steady flow: its two numbers, how well it balances, and its fields.

    `power`: what friction takes, divided by what the pressure gradient gives. `heat`: what
    conduction evens out, divided by what the walls give times their overheat. Both are 1 for the
    exact solution. `velocity` (2, k) and `temperature` (k,) are at the mesh's points.
    """

    drag: float
    stanton: float
    power: float
    heat: float
    steps: int
    mesh: Mesh
    velocity: Array
    temperature: Array


class Spaces:
    """The finite elements on a mesh."""

    def __init__(self, mesh: Mesh) -> None:
        self.cells = MeshTri1DG(mesh.corners, mesh.triangles)
        self.edges = self.cells.boundary_facets()
        self.velocity = Basis(self.cells, ElementVector(ElementTriP2()), intorder=4)
        self.pressure = self.velocity.with_element(ElementTriP1())
        self.scalar = self.velocity.with_element(ElementTriP2())
        self.still = self.velocity.get_dofs(self.edges).all()

    def walls(self, mesh: Mesh, length: float) -> Array:
        """Return the integral of each scalar function over both walls; Simpson's rule is exact."""
        ends = self.cells.facets[:, self.edges]
        flat = np.isin(mesh.points[1, ends], (0.0, 1.0)).all(axis=0)
        edge = 2 * length / flat.sum()
        weights = np.zeros(self.scalar.N)
        np.add.at(weights, ends[:, flat], edge / 6)
        np.add.at(weights, self.scalar.facet_dofs[0, self.edges[flat]], edge * 4 / 6)
        return weights


def solve(channel: Channel, width: float, *, reynolds: float, prandtl: float) -> Flow:
    """Calculate flow and temperature on a mesh of this width.

    Raises:
        LabelFailure: Newton's method does not converge.
    """
    grid = mesh(channel, width)
    spaces = Spaces(grid)
    viscosity = 2 / reynolds
    velocity, gradient, power, steps = _momentum(spaces, channel.length, viscosity)
    temperature, overheat, heat = _energy(
        spaces, spaces.walls(grid, channel.length), velocity, viscosity / prandtl
    )
    points = grid.points.shape[1]
    return Flow(
        drag=gradient,
        stanton=1 / overheat,
        power=power,
        heat=heat,
        steps=steps,
        mesh=grid,
        velocity=velocity[spaces.velocity.nodal_dofs],
        temperature=temperature[:points],
    )


@BilinearForm
def _friction(u: Any, v: Any, w: Any) -> Any:
    return ddot(grad(u), grad(v))


@BilinearForm
def _divergence(u: Any, q: Any, w: Any) -> Any:
    return -div(u) * q


@BilinearForm
def _product(p: Any, q: Any, w: Any) -> Any:
    return p * q


@BilinearForm
def _inertia(u: Any, v: Any, w: Any) -> Any:
    """The derivative of u . grad u."""
    here, slope, change = w.flow, grad(w.flow), grad(u)
    return sum(
        (u[j] * slope[i, j] + here[j] * change[i, j]) * v[i] for i in range(2) for j in range(2)
    )


@LinearForm
def _along(v: Any, w: Any) -> Any:
    return v[0]


@BilinearForm
def _conduction(t: Any, v: Any, w: Any) -> Any:
    return dot(grad(t), grad(v))


@BilinearForm
def _convection(t: Any, v: Any, w: Any) -> Any:
    return -t * dot(w.flow, grad(v))


@LinearForm
def _carried(v: Any, w: Any) -> Any:
    return w.flow[0] * v


def _factor(matrix: Any) -> Any:
    """Factorise a matrix whose pattern is symmetric: twice as fast if SuperLU knows it."""
    return splu(
        matrix.tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.1,
        options={"SymmetricMode": True},
    )


def _momentum(spaces: Spaces, length: float, viscosity: float) -> tuple[Array, float, float, int]:
    """Return velocity, pressure gradient, dissipation by pump's power, and Newton's steps."""
    friction = viscosity * _friction.assemble(spaces.velocity)
    divergence = _divergence.assemble(spaces.velocity, spaces.pressure)
    loose = -NEARLY_NONE * _product.assemble(spaces.pressure)
    push = _along.assemble(spaces.velocity)
    size, pressures = spaces.velocity.N, spaces.pressure.N
    free = np.setdiff1d(np.arange(size + pressures), spaces.still)
    pushes = np.append(push, np.zeros(pressures))
    state, gradient = np.zeros(size + pressures), 0.0
    for step in range(STEPS):
        velocity, pressure = state[:size], state[size:]
        flow = spaces.velocity.interpolate(velocity)
        inertia = _inertia.assemble(spaces.velocity, flow=flow)
        matrix = bmat([[friction + inertia, divergence.T], [divergence, loose]], "csr")
        residual = np.append(
            friction @ velocity + 0.5 * inertia @ velocity + divergence.T @ pressure,
            divergence @ velocity + loose @ pressure,
        )
        sides = np.stack([gradient * pushes - residual, pushes])[:, free]
        changes = np.zeros((2, len(state)))
        changes[:, free] = _factor(matrix[free][:, free]).solve(sides.T).T
        # The gradient changes so that the flow rate comes out right.
        missing = length - push @ (velocity + changes[0, :size])
        more = missing / (push @ changes[1, :size])
        change = changes[0] + more * changes[1]
        state, gradient = state + change, gradient + float(more)
        if np.abs(change[:size]).max() < NEARLY:
            velocity = state[:size]
            return velocity, gradient, velocity @ (friction @ velocity) / gradient / length, step
    raise LabelFailure(f"the steady flow was not found in {STEPS} Newton steps")


def _energy(
    spaces: Spaces, walls: Array, velocity: Array, diffusivity: float
) -> tuple[Array, float, float]:
    """Return temperature, the walls' mean overheat over the bulk, and the balance of heat."""
    flow = spaces.velocity.interpolate(velocity)
    conduction = diffusivity * _conduction.assemble(spaces.scalar)
    leak = NEARLY_NONE * _product.assemble(spaces.scalar)
    carried = _carried.assemble(spaces.scalar, flow=flow)
    heat = walls.sum()
    temperature = _factor(
        conduction + _convection.assemble(spaces.scalar, flow=flow) + leak
    ).solve(walls - heat / carried.sum() * carried)
    overheat = walls @ temperature / heat - carried @ temperature / carried.sum()
    evened = temperature @ (conduction @ temperature)
    return temperature, float(overheat), float(evened / (heat * overheat))


class FiniteElements:
    """Oracle: ln Cf and ln St of the channel with the sample's `promoters`.

    Logarithms, because an error of them is a relative error, and because the criterion
    St / Cf^(1/3) is a weighted sum of them.

    Options:
        width: of the mesh, in channel heights; half of it near promoters.
        reynolds: bulk velocity times hydraulic diameter (two heights) by viscosity.
        prandtl: viscosity by thermal diffusivity; 0.71 is air.
        balance: largest fraction by which power or heat may fail to balance; beyond it, the mesh
            does not resolve the flow, and there is no label.
    """

    def __init__(
        self,
        width: float = 0.05,
        reynolds: float = 200.0,
        prandtl: float = 0.71,
        balance: float = 0.05,
    ) -> None:
        self._width = width
        self._numbers = {"reynolds": reynolds, "prandtl": prandtl}
        self._balance = balance

    def label(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """Return `coefficients` (2,): ln Cf and ln St."""
        flow = solve(channel(sample["promoters"]), self._width, **self._numbers)
        if max(abs(flow.power - 1), abs(flow.heat - 1)) > self._balance:
            raise LabelFailure(
                f"the mesh of width {self._width} does not resolve this flow: of the power "
                f"{flow.power:.3f} is found again, of the heat {flow.heat:.3f}, expected 1 within "
                f"{self._balance}; choose a smaller width"
            )
        return {"coefficients": np.log([flow.drag, flow.stanton])}
