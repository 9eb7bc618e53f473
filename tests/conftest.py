"""For all tests: one thread, as sums of several threads differ in the last bit from run to run."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
