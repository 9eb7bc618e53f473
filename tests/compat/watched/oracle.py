"""Exact labels, made in a folder of the oracle's own choice."""

import json
import os

import numpy as np


class UserOracle:
    def __init__(self, rank, result_dir):
        self.rank = rank
        self.path = os.path.join(os.path.abspath(result_dir), f"oracle_{rank}.calls")
        self.note("init", os.getcwd())
        os.makedirs(os.path.join(result_dir, f"scratch_{rank}"), exist_ok=True)
        os.chdir(os.path.join(result_dir, f"scratch_{rank}"))

    def note(self, what, value=None):
        with open(self.path, "a") as file:
            file.write(json.dumps([what, value, os.getpid()]) + "\n")

    def run_calc(self, input_for_orcl):
        self.note("run_calc", os.getcwd())
        return np.array([input_for_orcl.sum(), 1.0])

    def stop_run(self):
        self.note("stop_run", os.getcwd())
