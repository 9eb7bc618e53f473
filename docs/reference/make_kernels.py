"""Write docs/reference/kernels/ from the kernels' own source: one page each, and an index.

python docs/reference/make_kernels.py
"""

from __future__ import annotations

from pathlib import Path

from pal.catalogue import Option, Registered, registered_kernels

ROLES = {
    "generator": ("Generators", "explore: each walker is one trajectory, search or design."),
    "model": ("Models", "predict, as a committee, and learn from the labels."),
    "oracle": ("Oracles", "are the source of ground truth."),
    "selector": ("Selectors", "choose which samples are worth a label."),
    "initial": ("Initial samples", "are labelled before exploration starts (`initial.kernel`)."),
}

HEAD = """# Kernels

The kernels that have short names. `pal kernels` lists them with what is installed here, and
`pal kernels NAME` tells one page of this reference in the terminal. Your own kernels are named as
`package.module:Class`; [Writing kernels](../../guide/writing-kernels.md) tells how to write them,
and how to publish them under short names of their own.

These pages are made from the kernels' source by `docs/reference/make_kernels.py`.
"""


def pages() -> dict[str, str]:
    """Return the text of each page by its file name."""
    kernels = [kernel for kernel in registered_kernels() if kernel.target.startswith("pal.")]
    found = {file_of(kernel): page(kernel) for kernel in kernels if kernel.role != "initial"}
    return found | {"README.md": index(kernels)}


def file_of(kernel: Registered) -> str:
    return f"{'generator' if kernel.role == 'initial' else kernel.role}-{kernel.name}.md"


def index(kernels: list[Registered]) -> str:
    lines = [HEAD]
    for role, (title, what) in ROLES.items():
        lines += [f"## {title}", "", f"{title} {what}", "", "| name | what it is |", "|---|---|"]
        lines += [
            f"| [`{kernel.name}`]({file_of(kernel)}) | {kernel.described.summary} |"
            for kernel in kernels
            if kernel.role == role
        ]
        lines.append("")
    return "\n".join(lines)


def page(kernel: Registered) -> str:
    described = kernel.described
    lines = [f"# `{kernel.name}`", "", f"*{kernel.role}* · `{kernel.target}` · {needs(kernel)}"]
    lines += ["", described.summary, "", described.text, "", "## Options", ""]
    lines += table(described.options) if described.options else ["None."]
    lines += ["", "## Example", "", "```toml", described.example, "```", ""]
    return "\n".join(lines)


def needs(kernel: Registered) -> str:
    return f'`pip install "pal[{kernel.extra}]"`' if kernel.extra else "needs nothing but PAL"


def table(options: tuple[Option, ...]) -> list[str]:
    rows = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for option in options:
        cells = (f"`{option.name}`", f"`{option.kind}`", shown(option), option.meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def shown(option: Option) -> str:
    return option.default if option.required else f"`{option.default}`"


if __name__ == "__main__":
    folder = Path(__file__).with_name("kernels")
    for old in folder.glob("*.md"):
        old.unlink()
    for name, text in pages().items():
        (folder / name).write_text(text)
