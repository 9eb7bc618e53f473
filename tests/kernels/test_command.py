"""Any program as oracle: templates in, labels out, and an honest no when it fails."""

import json
import os
import sys

import numpy as np
import pytest
from ase.units import Bohr, Hartree

from pal.errors import ContractError, LabelFailure
from pal.kernels.oracles.command import Command
from pal.kernels.oracles.parts.command_results import UNITS
from pal.roles import Context
from pal.runtime.campaign import Campaign
from pal.settings import parse
from pal.testing.checks import check_oracle

BARE = np.array([0.25, -1.5, 3.0])
WATER = {
    "positions": np.array([[0.0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]]),
    "numbers": np.array([8, 1, 1]),
    "charge": np.array(1.0),
}


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Build in the campaign's folder, then work in a scratch folder."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "scratch"


@pytest.fixture
def make(tmp_path, scratch):
    """Make an oracle that runs `text` as a Python program, with the template as argument."""

    def build(text="", template="{parameters}", **options):
        os.chdir(tmp_path)
        (tmp_path / "program.py").write_text(text)
        context = Context("oracle", 0, 1, 0, tmp_path, threads=2)
        options.setdefault("command", f"{sys.executable} {{home}}/program.py input.txt")
        options.setdefault("results", {"value": {"pattern": r"value = (\S+)"}})
        oracle = Command(context, inputs={"input.txt": template}, **options)
        os.chdir(scratch)
        return oracle

    return build


SUM = "values = map(float, open('input.txt').read().split()); print('value =', sum(values))"


def test_keeps_the_contract(make):
    check_oracle(lambda: make(SUM), BARE)


def test_numbers_go_in_and_come_out_exactly(make):
    sample = np.array([0.1, 1e-17, 2 / 3])
    assert float(make(SUM).label(sample)["value"]) == 0.1 + 1e-17 + 2 / 3
    bare = make(SUM, bare=True).label(sample)
    assert isinstance(bare, np.ndarray)
    assert float(bare) == 0.1 + 1e-17 + 2 / 3


@pytest.mark.parametrize(
    ("template", "sample", "expected"),
    [
        ("{parameters[1]} and {parameters[2]:.2f}", BARE, "-1.5 and 3.00"),
        ("{parameters:.1e}", BARE, "2.5e-01 -1.5e+00 3.0e+00"),
        ("a { b } {{parameters}}", BARE, "a { b } {parameters}"),
        ("{{parameters}", BARE, "{0.25 -1.5 3.0"),
        ("{atoms} {charge} {multiplicity} {threads} {symbols}", WATER, "3 1 2 2 O H H"),
        ("{positions[1, 2]} {numbers[0]} {numbers}", WATER, "-0.48 8 8 1 1"),
        ("{spin} {multiplicity}", {**WATER, "spin": np.array(3)}, "3 4"),
        ("{x}", {"x": np.eye(2)}, "1.0 0.0\n0.0 1.0"),
    ],
)
def test_templates_are_filled(make, scratch, template, sample, expected):
    make("print('value = 1')", template).label(sample)
    assert (scratch / "input.txt").read_text() == expected


def test_xyz_has_a_line_per_atom(make, scratch):
    make("print('value = 1')", "{atoms}\n\n{xyz}\n").label(WATER)
    lines = (scratch / "input.txt").read_text().splitlines()
    assert lines[3] == "H  0.0000000000 0.7600000000 -0.4800000000"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{xyz}", r"input 'input.txt' has {xyz}; the sample knows home, parameters, threads"),
        ("{parameters[7]}", r"{parameters\[7\]} does not fit parameters of shape \(3,\)"),
        ("{parameters:zz}", r"{parameters:zz} does not fit parameters"),
    ],
)
def test_what_the_sample_lacks_is_named(make, template, message):
    with pytest.raises(ContractError, match=message):
        make("", template).label(BARE)


WRITES = """
import json, numpy as np
numbers = np.arange(6.0).reshape(3, 2)
json.dump({"results": {"energies": [1.0, 2.5]}}, open("out.json", "w"))
np.save("out.npy", numbers)
np.savez("out.npz", numbers=numbers)
open("out.dat", "w").write("# one two\\n" + "\\n".join("1 %g %g" % tuple(row) for row in numbers))
open("out.csv", "w").write("1,2\\n3,4\\n")
open("out.xyz", "w").write('''2
Properties=species:S:1:pos:R:3:forces:R:3 energy=-3.5 pbc="F F F"
H 0 0 0 0 0 0.5
H 0 0 1 0 0 -0.5
''')
print("cycle energy = 1.0D+00\\ncycle energy = -2.0D+00")
"""


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"pattern": r"energy = (\S+)"}, -2.0),
        ({"pattern": r"energy = (\S+)", "all": True}, [1.0, -2.0]),
        ({"file": "out.json", "key": "results.energies.1"}, 2.5),
        ({"file": "out.json", "key": "results.energies", "factor": -2.0}, [-2.0, -5.0]),
        ({"file": "out.npy"}, [[0, 1], [2, 3], [4, 5]]),
        ({"file": "out.npz", "key": "numbers", "shape": [2, 3]}, [[0, 1, 2], [3, 4, 5]]),
        ({"file": "out.npz"}, [[0, 1], [2, 3], [4, 5]]),
        ({"file": "out.dat", "skip": 1, "columns": [1, 2]}, [[0, 1], [2, 3], [4, 5]]),
        ({"file": "out.dat", "skip": 1, "columns": [2], "shape": [-1]}, [1, 3, 5]),
        ({"file": "out.csv"}, [[1, 2], [3, 4]]),
        ({"file": "out.xyz", "key": "energy", "unit": "Hartree"}, -3.5 * Hartree),
        ({"file": "out.xyz"}, [[0, 0, 0.5], [0, 0, -0.5]]),
        ({"file": "out.xyz", "key": "numbers", "format": "extxyz"}, [1, 1]),
    ],
)
def test_results_are_read(make, table, expected):
    label = make(WRITES, results={"value": table}).label(BARE)
    np.testing.assert_allclose(label["value"], expected, rtol=1e-12)
    assert label["value"].dtype == float


def test_units_are_those_of_ase():
    assert UNITS["Hartree"] == pytest.approx(Hartree, rel=1e-7)
    assert UNITS["Hartree/Bohr"] == pytest.approx(Hartree / Bohr, rel=1e-7)
    assert UNITS["kcal/mol"] == pytest.approx(0.0433641, rel=1e-5)


def test_energy_and_forces_of_atoms(make):
    program = """
import numpy as np
places = np.loadtxt("input.txt", usecols=(1, 2, 3), skiprows=2)
print("value =", 0.5 * (places**2).sum())
np.savetxt("gradient.txt", places)
"""
    results = {
        "energy": {"pattern": r"value = (\S+)", "unit": "Hartree"},
        "forces": {
            "file": "gradient.txt",
            "unit": "Hartree/Bohr",
            "factor": -1.0,
            "shape": ["atoms", 3],
        },
    }
    oracle = make(program, "{atoms}\n\n{xyz}", results=results, max_force=1e3)
    check_oracle(lambda: oracle, WATER)
    label = oracle.label(WATER)
    assert float(label["energy"]) == pytest.approx(0.5 * (WATER["positions"] ** 2).sum() * Hartree)
    np.testing.assert_allclose(
        label["forces"], -WATER["positions"] * Hartree / Bohr, rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("name", ["s.json", "s.npz", "s.xyz"])
def test_the_whole_sample_goes_into_a_file(make, scratch, name):
    make("print('value = 1')", "", sample_file=name).label(WATER)
    if name == "s.json":
        found = json.loads((scratch / name).read_text())["positions"]
    elif name == "s.npz":
        with np.load(scratch / name) as arrays:
            found = arrays["positions"]
    else:
        lines = (scratch / name).read_text().splitlines()[2:]
        found = [line.split()[1:4] for line in lines]
    np.testing.assert_allclose(np.array(found, float), WATER["positions"], atol=1e-7)


def test_a_file_that_cannot_hold_the_sample_is_refused(make):
    with pytest.raises(ContractError, match=r"sample_file = 's.npy' cannot hold .*'numbers'"):
        make("", "", sample_file="s.npy").label(WATER)
    assert make("print('value = 1')", sample_file="s.npy").label(BARE)


def test_templates_and_folders_come_from_the_campaigns_folder(make, tmp_path, scratch):
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "points").write_text("1 2 3")
    (tmp_path / "basis").write_text("sto-3g")
    (tmp_path / "case.template").write_text("nu {parameters[0]};")
    make(
        "print('value = 1')",
        "",
        templates={"system/case": "case.template"},
        copy=["mesh", "basis"],
    ).label(BARE)
    assert (scratch / "system" / "case").read_text() == "nu 0.25;"
    assert (scratch / "mesh" / "points").read_text() == "1 2 3"
    assert (scratch / "basis").read_text() == "sto-3g"


@pytest.mark.parametrize(
    ("program", "options", "message"),
    [
        ("print('diverged'); exit(2)", {}, r"ended with code 2: diverged$"),
        ("print('no result')", {}, r"gave no value: 'stdout.txt' has no match of .*: no result$"),
        ("print('hm')", {"results": {"e": {"file": "e.json"}}}, r"'e.json': No such file.*: hm$"),
        (
            "print('hm'); open('e.json', 'w').write('{')",
            {"results": {"e": {"file": "e.json"}}},
            r"gave no e: 'e.json': JSONDecodeError.*: hm$",
        ),
        ("print('value = nan')", {}, r"gave value that is not finite"),
        ("print('value = 1')", {"success": "^converged"}, r"did not say '\^converged': value"),
        ("print('value = 1, NOT')", {"failure": ["NOT"]}, r"said 'NOT': value = 1, NOT$"),
    ],
)
def test_failures_carry_the_last_words(make, program, options, message):
    with pytest.raises(LabelFailure, match=message):
        make(program, **options).label(BARE)


def test_a_wrong_shape_is_told(make):
    results = {"forces": {"file": "out.npy", "shape": ["atoms", 3]}}
    with pytest.raises(ContractError, match=r"'out.npy' holds .* \(3, 2\); expected \[3, 3\]"):
        make(WRITES, "{xyz}", results=results).label(WATER)


def test_too_large_forces_are_refused(make):
    results = {"forces": {"file": "out.xyz"}}
    with pytest.raises(LabelFailure, match="max_force"):
        make(WRITES, results=results, max_force=0.1).label(BARE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"command": "no-such-program"}, r"command: the program 'no-such-program' was not found"),
        ({"command": ""}, "the command is empty"),
        ({"command": "sh 'x"}, "cannot split the command"),
        ({"results": {}}, "results has 0 entries"),
        ({"results": {"a": {}, "b": {}}, "bare": True}, "results has 2 entries"),
        ({"results": {"a": {"fil": "x"}}}, r"results.a has \['fil'\]; expected some of \['file'"),
        ({"results": {"a": {"unit": "lb"}}}, "results.a: unknown unit 'lb'; expected one of eV"),
        ({"results": {"a": {"pattern": "("}}}, "results.a: pattern is no regular expression"),
        ({"results": {"a": {"pattern": "x"}}}, "results.a: pattern has 0 groups; expected one"),
        ({"templates": {"a": "absent"}}, "templates names 'absent', which does not exist"),
        ({"copy": ["absent"]}, "copy names 'absent', which does not exist"),
        ({"failure": ["("]}, "success or failure is no regular expression"),
    ],
)
def test_bad_options_are_refused_at_the_start(make, options, message):
    with pytest.raises(ContractError, match=message):
        make("", **options)


def test_kept_files_are_there_for_the_next_of_the_same_shape(make, scratch):
    program = """
import os
print("value =", float(os.path.exists("flow")))
open("flow", "w").write("flow")
"""
    oracle = make(program, keep=["flow"])
    assert float(oracle.label(BARE)["value"]) == 0.0
    assert float(oracle.label(BARE + 1)["value"]) == 1.0
    assert not (scratch / "flow").exists()
    assert float(oracle.label(np.zeros(4))["value"]) == 0.0


# A campaign from settings ------------------------------------------------------------------

SETTINGS = """
[generator]
kernel = "command_campaign:Walk"
walkers = 1

[model]
kernel = "command_campaign:Line"
members = 2

[oracle]
kernel = "command"
options.command = "{python} {{home}}/program.py input.txt"
options.inputs = {{ "input.txt" = "{{parameters}}" }}
options.bare = true
options.results.value = {{ pattern = 'value = (\\S+)', shape = [1] }}

[selector]
kernel = "random"
options = {{ every = 1, threshold = 1.0 }}

[stop]
labels = 5
after = 40
final_training = 0
"""

KERNELS = """
import numpy as np

class Walk:
    def __init__(self, context):
        self._random = np.random.default_rng(context.seed)

    def step(self, feedback):
        return self._random.uniform(-1, 1, 3)

class Line:
    def predict(self, samples):
        return np.asarray(samples).sum(1, keepdims=True)

    def train(self, dataset):
        yield {"loss": 0.0}

    def get_weights(self):
        return {"none": np.zeros(1)}

    def set_weights(self, weights):
        pass
"""


def test_a_campaign_labels_with_a_program_from_settings_alone(tmp_path):
    import tomllib

    (tmp_path / "program.py").write_text(SUM)
    (tmp_path / "command_campaign.py").write_text(KERNELS)
    data = tomllib.loads(SETTINGS.format(python=sys.executable))
    settings = parse({**data, "directory": tmp_path / "run"})
    summary = Campaign.from_settings(settings, home=tmp_path).run()
    assert summary.labels == 5
    assert summary.failed == 0
    from pal.ledger.ledger import Ledger

    with Ledger.open_readonly(tmp_path / "run") as ledger:
        for item in ledger.labelled():
            assert item.label == pytest.approx(sum(np.asarray(item.sample).tolist()))
