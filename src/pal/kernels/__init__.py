"""Ready-made kernels; the only place that imports torch, ase and other science."""
