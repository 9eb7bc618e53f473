"""The labelled samples as files for other programs, and such files read as held-out data.

`.npz` holds any samples and labels. `.extxyz`, the text format that ASE and most machine-learned
potentials read, holds atoms (https://github.com/libAtoms/extxyz for its rules).
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from pal.errors import LedgerError, ShapeError
from pal.ledger.directory import write_atomically
from pal.ledger.ledger import Ledger
from pal.records import BARE, Array, Batch, LabelledSample, Signature, named, signature, unnamed

_ELEMENTS: Final = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As "
    "Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd "
    "Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am "
    "Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
)
_SYMBOLS: Final = _ELEMENTS.split()
"""Chemical symbols by nuclear charge; X has none."""

_SCALARS: Final = ("charge", "spin")
_SAMPLE_NAMES: Final = frozenset({"numbers", "positions", "cell", "pbc", *_SCALARS})
_PAIR: Final = re.compile(r"""([^\s=]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|(\S+))""")
_TYPES: Final = {"R": float, "I": np.int64, "L": bool, "S": str}
_DAMAGES: Final = (
    *(ValueError, TypeError, LookupError, StopIteration, EOFError),
    *(zipfile.BadZipFile, zlib.error, ShapeError),
)
"""What readers of damaged or foreign files run into."""
_NPZ_ROLES: Final = ("sample", "label")


def export_npz(ledger: Ledger, path: Path | str) -> int:
    """Write all labelled samples and return how many.

    The arrays are `sample/<name>` and `label/<name>` of shape (n, ...), a bare array being
    `sample/`, beside `identity` (n,), the numbers in the ledger, and `order` (n,), the place in
    the order of the commits. Where shapes differ from sample to sample, each group of equal
    shapes has these names behind a number: `0/sample/positions`, `1/sample/positions`, ...

    Raises:
        LedgerDiskError: the disk refused.
    """
    groups: dict[tuple[Signature, Signature], list[tuple[int, LabelledSample]]] = {}
    for order, item in enumerate(ledger.labelled()):
        groups.setdefault((signature(item.sample), signature(item.label)), []).append(
            (order, item)
        )
    columns: dict[str, Array] = {}
    for number, group in enumerate(groups.values()):
        prefix = f"{number}/" if len(groups) > 1 else ""
        columns[f"{prefix}order"] = np.array([order for order, _ in group])
        columns[f"{prefix}identity"] = np.array([item.identity for _, item in group])
        for role in _NPZ_ROLES:
            batch = Batch([getattr(item, role) for _, item in group])
            for name, column in batch.columns.items():
                columns[f"{prefix}{role}/{name}"] = column
    content = io.BytesIO()
    np.savez(content, **columns)  # type: ignore[arg-type]
    write_atomically(Path(path), content.getvalue())
    return sum(map(len, groups.values()))


def export_extxyz(ledger: Ledger, path: Path | str) -> int:
    """Write all labelled samples as extended XYZ, in the order of their commits; count them.

    Samples are atoms: `numbers` (n,) and `positions` (n, 3) in Å; where there, `cell` (3, 3) in
    Å, `pbc` (3,), `charge` () in e and `spin` (), the number of unpaired electrons. Labels are
    scalars such as `energy` () in eV and arrays with one row per atom such as `forces` (n, 3) in
    eV/Å. Every number is written with all its digits.

    Raises:
        LedgerError: samples or labels hold something else; it names the first.
        LedgerDiskError: the disk refused.
    """
    frames = [frame(item, ledger.file) for item in ledger.labelled()]
    write_atomically(Path(path), "".join(frames).encode())
    return len(frames)


def read_labelled(path: Path | str) -> list[LabelledSample]:
    """Read labelled samples from a file `export_npz` or `export_extxyz` wrote, or alike.

    In an `.npz`, `order` and `identity` may be missing: samples are numbered from 0 then. In an
    `.extxyz` or `.xyz`, whatever is not one of `numbers`, `positions`, `cell`, `pbc`, `charge`
    and `spin` belongs to the label.

    Raises:
        LedgerError: the file is missing, damaged or of another kind.
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".extxyz": _read_extxyz, ".xyz": _read_extxyz}
    if path.suffix not in readers:
        raise LedgerError(f"{path}: expected a file ending in {', '.join(readers)}")
    try:
        return readers[path.suffix](path)
    except OSError as error:
        raise LedgerError(f"{path} cannot be read: {error.strerror or error}") from error
    except _DAMAGES as error:
        raise LedgerError(
            f"{path} is damaged or no {path.suffix} of labelled samples: {error!r}"
        ) from error


def _read_npz(path: Path) -> list[LabelledSample]:
    groups: dict[str, dict[str, Array]] = {}
    with path.open("rb") as source, np.load(source, allow_pickle=False) as file:
        for key in file.files:
            prefix, name = re.fullmatch(r"(?:(\d+)/)?(.*)", key, re.DOTALL).groups()  # type: ignore[union-attr]
            groups.setdefault(prefix or "", {})[name] = file[key]
    placed: list[tuple[int, LabelledSample]] = []
    for columns in groups.values():
        placed += _rows(columns, len(placed))
    return [item for _, item in sorted(placed, key=lambda pair: pair[0])]


def _rows(columns: dict[str, Array], first: int) -> Iterator[tuple[int, LabelledSample]]:
    """Split the stacked arrays of one group into (order, labelled sample)."""
    samples, labels = (
        Batch.stacked(
            {
                name.removeprefix(f"{role}/"): column
                for name, column in columns.items()
                if name.startswith(f"{role}/")
            }
        )
        for role in _NPZ_ROLES
    )
    if len(samples) != len(labels):
        raise ValueError(f"{len(samples)} samples but {len(labels)} labels")
    numbers = np.arange(first, first + len(samples))
    order, identity = columns.get("order", numbers), columns.get("identity", numbers)
    for row in range(len(samples)):
        yield (
            int(order[row]),
            LabelledSample(int(identity[row]), _own(samples[row]), _own(labels[row])),
        )


def _own(record: Any) -> Any:
    """Copy a row out of the stacked arrays, as arrays (one number is a 0-d array)."""
    return unnamed({name: np.array(array) for name, array in named(record).items()})


def frame(item: LabelledSample, file: Path) -> str:
    """Return a sample, with its label unless that is empty, as one frame of extended XYZ.

    Raises:
        LedgerError: it is no sample of atoms, or its label does not fit the format.
    """
    sample, label = named(item.sample), named(item.label)
    numbers = sample.get("numbers")
    positions = sample.get("positions")
    if numbers is None or positions is None or positions.shape != (len(numbers), 3):
        shapes = {name or "bare": array.shape for name, array in sample.items()}
        raise LedgerError(
            f"{file}, sample {item.identity}: expected atoms with 'numbers' (n,) and 'positions' "
            f"(n, 3), got {shapes}; export to .npz, which holds any samples"
        )
    strange = (sample.keys() - _SAMPLE_NAMES) | (label.keys() & _SAMPLE_NAMES) | {BARE} & {*label}
    if strange:
        raise LedgerError(
            f"{file}, sample {item.identity}: {sorted(strange)} would not come back as what it "
            "is from .extxyz; export to .npz, which holds any samples"
        )
    facts = _facts(sample)
    columns = {"pos": positions}
    for name, array in label.items():
        if not array.ndim:
            facts.append(f"{name}={_text(array.item())}")
        elif array.ndim <= 2 and len(array) == len(numbers):
            columns[name] = array
        else:
            raise LedgerError(
                f"{file}, label '{name}' of sample {item.identity} has shape {array.shape}; "
                f".extxyz holds scalars and ({len(numbers)}, ...) per atom: export to .npz"
            )
    kinds = [f"{name}:{_letter(array)}:{_width(array)}" for name, array in columns.items()]
    facts = [f"Properties=species:S:1:{':'.join(kinds)}", *facts, f"identity={item.identity}"]
    lines = [str(len(numbers)), " ".join(facts)]
    tables = [array.reshape(len(numbers), -1).tolist() for array in columns.values()]
    rows = zip(*tables, strict=True)
    for number, row in zip(numbers.tolist(), rows, strict=True):
        lines.append(
            " ".join([_SYMBOLS[number], *(_text(value) for part in row for value in part)])
        )
    return "\n".join(lines) + "\n"


def _facts(sample: dict[str, Array]) -> list[str]:
    facts = []
    if "cell" in sample:
        facts.append(f'Lattice="{_texts(sample["cell"])}"')
    if "pbc" in sample:
        facts.append(f'pbc="{_texts(sample["pbc"].astype(bool))}"')
    facts += [f"{name}={_text(sample[name].item())}" for name in _SCALARS if name in sample]
    return facts


def _texts(array: Array) -> str:
    return " ".join(_text(value) for value in array.ravel().tolist())


def _text(value: Any) -> str:
    return "FT"[value] if isinstance(value, bool) else str(value)


def _letter(array: Array) -> str:
    return {"b": "L", "i": "I", "u": "I", "f": "R"}.get(array.dtype.kind, "S")


def _width(array: Array) -> int:
    return array.shape[1] if array.ndim == 2 else 1


def _read_extxyz(path: Path) -> list[LabelledSample]:
    lines = iter(path.read_text(encoding="utf-8").splitlines())
    found: list[LabelledSample] = []
    for line in lines:
        if line.strip():
            comment, count = next(lines), int(line)
            atoms = [next(lines).split() for _ in range(count)]
            found.append(_parse(comment, atoms, len(found)))
    return found


def _parse(comment: str, atoms: list[list[str]], place: int) -> LabelledSample:
    facts = {key: a or b or c for key, a, b, c in _PAIR.findall(comment)}
    arrays = dict(_columns(facts.pop("Properties", "species:S:1:pos:R:3"), atoms))
    identity = int(facts.pop("identity", place))
    pbc = facts.pop("pbc", "T T T")
    if "Lattice" in facts:
        arrays["cell"] = np.array(facts.pop("Lattice").split(), float).reshape(3, 3)
        arrays["pbc"] = np.array([flag[0] in "T1" for flag in pbc.split()])
    arrays.update((name, _value(text)) for name, text in facts.items())
    return LabelledSample(
        identity,
        {name: array for name, array in arrays.items() if name in _SAMPLE_NAMES},
        {name: array for name, array in arrays.items() if name not in _SAMPLE_NAMES},
    )


def _columns(properties: str, atoms: list[list[str]]) -> Iterable[tuple[str, Array]]:
    parts, start = properties.split(":"), 0
    for name, kind, width in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        end = start + int(width)
        cells = [row[start:end] for row in atoms]
        if any(len(row) != end - start for row in cells):
            raise ValueError(f"an atom has no column for '{name}'")
        start = end
        column = np.array(cells if int(width) > 1 else [row[0] for row in cells])
        if name == "species":
            yield "numbers", np.array([_SYMBOLS.index(symbol) for symbol in column])
        elif name == "Z":
            yield "numbers", column.astype(np.int64)
        elif kind == "L":
            yield name, column == "T"
        else:
            yield {"pos": "positions"}.get(name, name), column.astype(_TYPES[kind])


def _value(text: str) -> Array:
    """Read a scalar, a list of numbers, or a word."""
    if text in ("T", "F"):
        return np.array(text == "T")
    try:
        numbers = np.array(text.split(), float)
    except ValueError:
        return np.array(text)
    return numbers.reshape(()) if numbers.size == 1 else numbers
