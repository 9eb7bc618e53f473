"""Linear members whose weights count how often they have trained."""

import glob
import json
import os
import time

import numpy as np

ENOUGH = 3  # times to train, each of the trainers, before the workflow ends
TRAINERS = 2


class UserModel:
    def __init__(self, rank, result_dir, i_device, mode):
        self.rank, self.mode = rank, mode
        self.path = os.path.join(result_dir, f"model_{rank}.calls")
        self.weights = np.array([1.0 + 0.1 * (rank % 2), 0.0])
        self.points = []
        self.note("init", [i_device, mode])

    def note(self, what, value=None):
        with open(self.path, "a") as file:
            file.write(json.dumps([what, value, os.getpid()]) + "\n")

    def predict(self, list_data_to_pred):
        return [self.weights[0] * x[:2] + self.weights[1] for x in list_data_to_pred]

    def update(self, weight_array):
        self.note("update", weight_array.tolist())
        self.weights = np.array(weight_array)

    def get_weight_size(self):
        return np.int64(2)

    def get_weight(self):
        return self.weights

    def add_trainingset(self, datapoints):
        self.points += datapoints
        self.note("add_trainingset", [[x.tolist(), y.tolist()] for x, y in datapoints])

    def retrain(self, req_data):
        self.note("retrain", len(self.points))
        end = time.monotonic() + 60
        while not req_data.Test() and time.monotonic() < end:
            time.sleep(0.001)
        self.weights = self.weights + np.array([0.0, 1.0])
        self.note("retrained", [len(self.points), req_data.Test()])
        return self.all_have_trained()

    def all_have_trained(self):
        counts = []
        for path in glob.glob(os.path.join(os.path.dirname(self.path), "model_*.calls")):
            with open(path) as file:
                text = file.read()
            if '"train"' in text:
                counts.append(text.count('"retrained"'))
        return len(counts) == TRAINERS and min(counts) >= ENOUGH

    def save_progress(self, stop_run):
        self.note("save_progress", bool(stop_run))

    def stop_run(self):
        self.note("stop_run")
