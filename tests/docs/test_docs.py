"""What the documents say is true: the README's example runs, the settings page is current."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_example_of_the_readme_runs_as_printed(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "example.py").write_text(code)
    run = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=90
    )
    assert run.returncode == 0, run.stderr
    assert "60 labels" in run.stderr
    assert (tmp_path / "run" / "report.html").exists()


def test_settings_page_is_made_from_the_settings() -> None:
    made = runpy.run_path(str(ROOT / "docs/reference/make_settings.py"))["page"]()
    assert (ROOT / "docs/reference/settings.md").read_text() == made, (
        "run: python docs/reference/make_settings.py"
    )


def test_links_between_documents_lead_somewhere() -> None:
    pages = [
        ROOT / "README.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
    ]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_kernel_pages_are_made_from_the_kernels() -> None:
    made = runpy.run_path(str(ROOT / "docs/reference/make_kernels.py"))["pages"]()
    folder = ROOT / "docs/reference/kernels"
    assert {path.name: path.read_text() for path in folder.glob("*.md")} == made, (
        "run: python docs/reference/make_kernels.py"
    )


def test_the_guide_tells_all_options_of_parsl() -> None:
    from pal.catalogue import Described
    from pal.runtime.outside.wanted import SHORT_NAMES

    page = (ROOT / "docs/guide/outside-oracles.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    options = {option.name: option for option in Described(SHORT_NAMES["parsl"]).options}
    assert set(options) <= told
    assert all(option.meaning for option in options.values())
