"""Deterministic walkers that write down what they hear. Tests change LIMIT."""

import json
import os

import numpy as np

LIMIT = 10**9


class UserGene:
    def __init__(self, rank, result_dir):
        np.random.seed(rank)
        self.rank = rank
        self.path = os.path.join(result_dir, f"heard_{rank}")
        self.place = os.getcwd()
        self.counter = 0
        self.rows = []
        self.note("init", result_dir)
        print(f"generator {rank} speaks")

    def note(self, what, value=None):
        with open(self.path + ".calls", "a") as file:
            file.write(json.dumps([what, value, os.getpid()]) + "\n")

    def generate_new_data(self, data_to_gene):
        if self.counter == 0:
            self.note("first", data_to_gene)
        else:
            self.rows.append(np.array(data_to_gene))
        self.counter += 1
        stop = self.counter > LIMIT + self.rank
        return np.bool_(stop), np.random.randn(3) + 0.01 * self.counter

    def save_progress(self):
        self.note("save_progress", self.counter)

    def stop_run(self):
        np.save(self.path, np.array(self.rows))
        self.note("stop_run", self.counter)
