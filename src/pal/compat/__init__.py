"""Runs kernels written for the published PAL interface (arXiv 2412.00401, SI S3 to S7)."""
