"""The toy of the publication (arXiv 2412.00401, SI S3 to S7), typed in from its text."""

import os
import pickle

import numpy as np


class UserGene(object):
    def __init__(self, rank, result_dir):
        self.rank = rank
        self.result_dir = result_dir
        self.counter = 0
        self.limit = int(os.environ.get("TOY_LIMIT", 300000)) + self.rank  # for tests
        self.state = np.random.randn(4)
        self.history = [[]]
        self.save_path = os.path.join(self.result_dir, f"generator_data_{rank}")

    def save_progress(self):
        m = "ab" if os.path.exists(self.save_path) else "wb"
        with open(self.save_path, m) as fh:
            pickle.dump(self.history[:-1], fh)
        self.history = self.history[-1:]

    def generate_new_data(self, data_to_gene):
        stop_run = False
        data_to_pred = None
        if self.counter > self.limit:
            stop_run = True
            data_to_pred = np.random.randn(4)
            print(f"Generator rank{self.rank}: stop signal sent.")
        elif data_to_gene is None:
            data_to_pred = np.random.randn(4)
            self.history.append([data_to_pred])
        elif (data_to_gene == 0).any():
            data_to_pred = np.random.randn(4)
            self.history.append([data_to_pred])
        else:
            data_to_pred = self.state * data_to_gene
            self.history[-1].append(data_to_pred)
        if self.counter % 10000 == 0:
            print(f"Generator rank{self.rank}: iteration {self.counter} finished.")
        self.counter += 1
        return stop_run, data_to_pred

    def stop_run(self):
        self.save_progress()
