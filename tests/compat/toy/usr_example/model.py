"""The toy of the publication (arXiv 2412.00401, SI S3 to S7), typed in from its text."""

import json
import os
import time

import numpy as np
import torch
from torch import nn


class TestModel(nn.Module):
    __test__ = False

    def __init__(self, n_in, n_out):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_in, 32),
            nn.ReLU(),
            nn.Linear(32, 32),
            nn.ReLU(),
            nn.Linear(32, 32),
            nn.ReLU(),
            nn.Linear(32, n_out),
        )

    def forward(self, x):
        return self.layers(x)


class UserModel(object):
    def __init__(self, rank, result_dir, i_device, mode):
        self.rank = rank
        self.result_dir = result_dir
        self.mode = mode
        self.i_device = i_device
        if self.mode == "predict":
            self.model = TestModel(4, 4)
            self.para_keys = list(self.model.state_dict().keys())
        else:
            self.start_time = time.time()
            self.x_train = []
            self.y_train = []
            self.x_val = []
            self.y_val = []
            self.val_split = 0.2
            self.model = TestModel(4, 4)
            self.para_keys = list(self.model.state_dict().keys())
            self.loss = nn.MSELoss(reduction="sum")
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
            self.max_epo = 1000000
            self.batch_size = 10
            self.history = {"MSE_train": [], "MSE_val": []}

    def predict(self, list_data_to_pred):
        data_to_gene_list = None
        input_array = np.array(list_data_to_pred, dtype=float)
        self.model.eval()
        with torch.no_grad():
            x = torch.tensor(input_array, dtype=torch.float)
            data_to_gene_list = list(self.model(x).numpy())
        return data_to_gene_list

    def update(self, weight_array):
        for k in self.para_keys:
            self.model.state_dict()[k] = weight_array[
                : self.model.state_dict()[k].flatten().shape[0]
            ].reshape(self.model.state_dict()[k].shape)
        print(f"Prediction Rank {self.rank}: model updated")

    def get_weight_size(self):
        weight_size = 0
        for k in self.para_keys:
            weight_size += self.model.state_dict()[k].flatten().shape[0]
        return weight_size

    def get_weight(self):
        return np.concatenate(
            [self.model.state_dict()[k].flatten().numpy() for k in self.para_keys], axis=0
        )

    def save_progress(self):
        with open(os.path.join(self.result_dir, f"retrain_history_{self.rank}.json"), "w") as fh:
            json.dump(self.history, fh)

    def add_trainingset(self, datapoints):
        idx = np.array(range(0, len(datapoints)), dtype=int)
        val_size = int(self.val_split * idx.shape[0])
        i_val = np.random.choice(idx, size=val_size, replace=False)
        i_train = np.array([i for i in idx if i not in i_val], dtype=int)
        for i in range(0, len(datapoints)):
            if i in i_train:
                self.x_train.append(datapoints[i][0])
                self.y_train.append(datapoints[i][1])
            else:
                self.x_val.append(datapoints[i][0])
                self.y_val.append(datapoints[i][1])
        print(f"Training Rank{self.rank}: training set size increased")

    def retrain(self, req_data):
        stop_run = False
        print(f"Training Rank{self.rank}: retraining start...")
        for v in self.history.values():
            v.append([])
        x_t = torch.tensor(np.array(self.x_train, dtype=float), dtype=torch.float)
        y_t = torch.tensor(np.array(self.y_train, dtype=float), dtype=torch.float)
        x_v = torch.tensor(np.array(self.x_val, dtype=float), dtype=torch.float)
        y_v = torch.tensor(np.array(self.y_val, dtype=float), dtype=torch.float)
        n_batch = int(len(self.x_train) / self.batch_size)
        n_batch_val = int(len(self.x_val) / self.batch_size)
        for i in range(1, self.max_epo + 1):
            self.model.train()
            mse = 0
            for j in range(1, n_batch + 1):
                part = slice(j * self.batch_size, min((j + 1) * self.batch_size, x_t.shape[0]))
                pred = self.model(x_t[part])
                loss = self.loss(pred, y_t[part])
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
                mse += loss.item()
            self.history["MSE_train"][-1].append(mse / x_t.shape[0])
            if i % 10 == 0:
                self.model.eval()
                mse = 0
                for j in range(1, n_batch_val + 1):
                    part = slice(j * self.batch_size, min((j + 1) * self.batch_size, x_v.shape[0]))
                    with torch.no_grad():
                        pred = self.model(x_v[part])
                        loss = self.loss(pred, y_v[part]).item()
                        mse += loss
                self.history["MSE_val"][-1].append(mse / x_v.shape[0])
            if req_data.Test():
                print(f"Training Rank{self.rank}: new data arrive.")
                break
        print(f"Training Rank{self.rank}: retraining stop.")
        rounds = int(os.environ.get("TOY_ROUNDS", 10**9))  # for tests
        if time.time() - self.start_time >= 3600 or len(self.history["MSE_train"]) >= rounds:
            stop_run = True
            print(f"Training Rank{self.rank}: stop signal sent.")
        else:
            stop_run = False
        return stop_run

    def stop_run(self):
        if self.mode == "train":
            self.save_progress()
