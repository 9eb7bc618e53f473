"""External programs: their surroundings, their output, and how they end."""

import os
import signal
import sys

import pytest

from pal.errors import ContractError, LabelFailure
from pal.kernels.oracles.parts import program
from pal.kernels.oracles.parts.program import find_program, last_words, run_program


@pytest.fixture(autouse=True)
def _scratch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def python(text, **options):
    return run_program([sys.executable, "-c", text], "toy", **options)


def test_returns_what_was_printed_and_keeps_it_in_files(tmp_path):
    said = python("import sys; print('hello'); print('careful', file=sys.stderr)", stdout="out")
    assert said == "hello\n"
    assert (tmp_path / "out").read_text() == said
    assert (tmp_path / "stderr.txt").read_text() == "careful\n"


def test_threads_and_variables_arrive_and_ours_win():
    text = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['PARNODES'], os.getcwd())"
    said = python(text, threads=3, environment={"PARNODES": "7"})
    assert said.split() == ["3", "7", os.getcwd()]


def test_input_comes_from_a_file(tmp_path):
    (tmp_path / "given").write_text("42")
    assert python("import sys; print(sys.stdin.read())", stdin="given") == "42\n"
    assert python("import sys; print(len(sys.stdin.read()))") == "0\n"


def test_an_error_carries_the_last_words_of_both_streams():
    text = "import sys; print('SCF cycle 99'); print('not converged', file=sys.stderr); exit(3)"
    with pytest.raises(LabelFailure, match=r"toy ended with code 3: SCF cycle 99\nnot converged$"):
        python(text)


def test_a_signal_is_named():
    with pytest.raises(LabelFailure, match=r"killed by signal 9 \(SIGKILL\): \(it printed not"):
        python("import os; os.kill(os.getpid(), 9)")


def test_what_cannot_be_started_is_no_failure_of_physics(tmp_path):
    with pytest.raises(
        ContractError, match=r"toy: the program '.*none' cannot be started: No such"
    ):
        run_program([tmp_path / "none"], "toy")
    with pytest.raises(
        ContractError, match=r"toy: .*'no-such-thing' was not found on PATH.*where"
    ):
        find_program("no-such-thing", "toy", "where")
    assert find_program("sh", "toy").endswith("/sh")


def test_only_the_last_lines_are_kept(tmp_path):
    (tmp_path / "long").write_text("\n\n".join(f"line {n}" for n in range(50)))
    assert last_words("long", "absent", lines=2) == "line 48\nline 49"


@pytest.mark.parametrize("deaf", [False, True], ids=["ends at once", "must be killed"])
def test_an_interruption_ends_the_program(monkeypatch, deaf):
    monkeypatch.setattr(program, "PATIENCE", 0.2 if deaf else 20.0)
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN);" if deaf else ""
    text = (
        f"import os, signal, time; {ignore} open('pid', 'w').write(str(os.getpid()));"
        "os.kill(os.getppid(), signal.SIGINT); time.sleep(60)"
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            python(text)
    finally:
        signal.signal(signal.SIGINT, before)
    with open("pid") as file, pytest.raises(ProcessLookupError):
        os.kill(int(file.read()), 0)
