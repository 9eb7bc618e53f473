"""A check that wants one label in each batch, and an order that is easy to recognise."""

import numpy as np

WANTED = 1


def prediction_check(list_data_to_pred, list_data_to_gene):
    assert len(list_data_to_pred) == len(list_data_to_gene)
    assert all(p.ndim == 2 for p in list_data_to_gene)
    checked = [np.concatenate([p.mean(axis=0), [len(p)]]) for p in list_data_to_gene]
    return list_data_to_pred[:WANTED], checked


def adjust_input_for_oracle(to_orcl_buffer, pred_list):
    assert len(pred_list[0]) == len(to_orcl_buffer)
    order = np.argsort([x[0] for x in to_orcl_buffer])
    return [to_orcl_buffer[i] for i in order][: max(1, len(order) // 2)]
