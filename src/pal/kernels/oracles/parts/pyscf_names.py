"""Names of functionals, basis sets and core potentials: what PySCF makes of them, and when not."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, TypeAlias

from ase.data import chemical_symbols
from pyscf.dft import libxc
from pyscf.gto import basis as library
from pyscf.scf.dispersion import parse_dft

from pal.errors import ContractError, LabelFailure

ALIASES = {"bmk": "hyb_mgga_x_bmk,gga_c_bmk"}
"""Functionals that PySCF has, but under these names."""

ELEMENTS = chemical_symbols[1:104]
DEFAULT = "default"
AUTO, NONE = "auto", "none"

Load: TypeAlias = Callable[[str, str], Any]
"""Returns a basis, or a potential, by its name and an element's symbol."""


def functional_name(name: str, states: int, fitted: bool) -> str | None:
    """Return the functional's name in PySCF; none for Hartree-Fock.

    Raises:
        ContractError: PySCF does not know it, or has no forces for what is asked for.
    """
    if states < 1:
        raise ContractError(f"pyscf: states = {states}; expected 1 (the ground state) or more")
    if states > 1 and fitted:
        raise ContractError(
            "pyscf: PySCF has no forces of excited states with density fitting; set "
            "density_fitting = false, or states = 1"
        )
    if name.upper() == "HF":
        return None
    code = ALIASES.get(name.lower(), name)
    try:
        plain, _, dispersion = parse_dft(code)
        libxc.parse_xc(plain)
    except (KeyError, ValueError, NotImplementedError) as error:
        raise ContractError(
            f"pyscf: functional = {name!r} is none that PySCF knows ({error.args[0]}); expected "
            'such as "B3LYP", "PBE0", "M06-2X", or exchange and correlation, "PBE,P86"'
        ) from error
    _check_extras(name, plain, dispersion, states)
    return code


def fitting_basis(density_fitting: bool | str) -> str | None:
    """Return the name of the auxiliary basis; none lets PySCF choose one by the basis.

    Raises:
        ContractError: no element has such a basis.
    """
    if isinstance(density_fitting, bool):
        return None
    return _known(library.load, "density_fitting", density_fitting)


def _check_extras(name: str, plain: str, dispersion: str | None, states: int) -> None:
    """Dispersion and VV10 have no forces of excited states; dispersion is a package of its own."""
    if states > 1 and (dispersion or libxc.is_nlc(plain)):
        raise ContractError(
            f"pyscf: PySCF has no forces of excited states with the dispersion of {name!r}; "
            "expected a functional without it, or states = 1"
        )
    if dispersion and importlib.util.find_spec("pyscf.dispersion") is None:
        raise ContractError(
            f"pyscf: the dispersion of functional = {name!r} needs the package "
            "pyscf-dispersion; install it with pip"
        )


class BasisSet:
    """A basis with its effective core potentials, as far as each element has them."""

    def __init__(self, basis: str | Mapping[str, str], ecp: str) -> None:
        """Look whether the names are known at all.

        Raises:
            ContractError: no element has such a basis, or such a potential.
        """
        names = {DEFAULT: basis} if isinstance(basis, str) else dict(basis)
        strange = sorted(names.keys() - {DEFAULT, *ELEMENTS})
        if strange:
            raise ContractError(
                f"pyscf: basis has the keys {strange}; expected symbols of elements, and "
                f"'{DEFAULT}' for all others"
            )
        self._names = {e: _known(library.load, "basis", name) for e, name in names.items()}
        self._ecp = ecp if ecp in (AUTO, NONE) else _known(library.load_ecp, "ecp", ecp)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for two bases in which the same orbitals have the same coefficients."""
        return (*sorted(self._names.items()), self._ecp)

    def of(self, elements: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
        """Return the names of basis sets and of core potentials by element.

        Raises:
            LabelFailure: an element has no such basis.
        """
        sets = {e: self._names.get(e, self._names.get(DEFAULT, "")) for e in sorted(elements)}
        missing = [
            f"{e} ({name!r})" for e, name in sets.items() if not _has(library.load, name, e)
        ]
        if missing:
            raise LabelFailure(
                f"pyscf: the basis has no functions for {', '.join(missing)}{_more()}; name "
                "another one for each such element (oracle option basis)"
            )
        if self._ecp == NONE:
            return sets, {}
        wanted = sets if self._ecp == AUTO else dict.fromkeys(sets, self._ecp)
        return sets, {e: ecp for e, ecp in wanted.items() if _has(library.load_ecp, ecp, e)}


def _known(load: Load, option: str, name: str) -> str:
    """Return the name; of a file the whole path, because labels are made in another folder."""
    path = os.path.abspath(name)
    found = path if os.path.isfile(path) else name
    if not any(_has(load, found, element) for element in ELEMENTS):
        raise ContractError(
            f"pyscf: {option} = {name!r} is none that PySCF knows, nor a file in NWChem's format"
            f"{_more()}"
        )
    return found


@cache
def _has(load: Load, name: str, element: str) -> bool:
    """Whether the library has something for the element under this name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return bool(load(name, element))
        except (library.BasisNotFoundError, RuntimeError, KeyError):
            return False


def _more() -> str:
    """Where more names may come from."""
    if importlib.util.find_spec("basis_set_exchange") is not None:
        return ""
    return "; the package basis-set-exchange, installed with pip, knows more"
