"""Sums over neighbours that `torch.func.vmap` can batch."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor


def summed(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
    reduce: str = "sum",
) -> Tensor:
    """Add up the slices of `src` along `dim` that have the same number in `index` (k,).

    `dim_size`: how many sums there are; `out`: what they are added to, instead of zeros.
    """
    assert reduce == "sum"
    if out is None:
        shape = list(src.shape)
        shape[dim] = int(index.max()) + 1 if dim_size is None else dim_size
        out = src.new_zeros(shape)
    return out.index_add(dim, index, src)


def batchable(*places: tuple[ModuleType, str]) -> None:
    """Let modules of a library sum with `summed`: each is (module, name of its function there).

    Theirs do the same by writing in place into zeros that are no batch, which vmap refuses.
    """
    for module, name in places:
        if not hasattr(module, name):
            raise ImportError(f"{module.__name__} has no function '{name}' in this version")
        setattr(module, name, summed)
