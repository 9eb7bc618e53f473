"""What the settings want for an executor, checked as far as can be before a campaign starts."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from pal.building import KernelSpec
from pal.catalogue import check_against
from pal.errors import KernelImportError, SettingsError, nearest
from pal.sections import OracleSettings

SHORT_NAMES = {"parsl": "pal.runtime.outside.blocks:blocks"}


def executor_spec(oracle: OracleSettings, paths: Sequence[str]) -> KernelSpec:
    """Return how the executor is made, after whatever can be checked before a campaign.

    Raises:
        SettingsError: it is no executor, or has no such options.
        KernelImportError: its library is missing, or it cannot be sent to another process.
    """
    wanted, options = oracle.executor, oracle.executor_options
    if not isinstance(wanted, str):
        if not (callable(wanted) or callable(getattr(wanted, "submit", None))):
            raise SettingsError(
                f"oracle.executor: expected a name, an executor, or a class or function that "
                f"makes one; got {type(wanted).__name__}"
            )
        return KernelSpec.of("executor", wanted, options, paths)
    if ":" in wanted:
        return KernelSpec.of("executor", wanted, options, paths)
    if wanted not in SHORT_NAMES:
        raise SettingsError(
            f"oracle.executor = '{wanted}' is no known short name: "
            f"{nearest(wanted, list(SHORT_NAMES))} (or write 'package.module:factory')"
        )
    if find_spec(wanted) is None:
        raise KernelImportError(
            f"oracle.executor = '{wanted}' needs {wanted}, which is not installed here: "
            f'pip install "pal[{wanted}]"'
        )
    target = SHORT_NAMES[wanted]
    check_against(target, "oracle.executor_options", wanted, options)
    return KernelSpec("executor", target, b"", options, tuple(paths))
