"""The toy of the publication (arXiv 2412.00401, SI S3 to S7), typed in from its text."""

import numpy as np


def prediction_check(list_data_to_pred, list_data_to_gene):
    list_input_to_orcl = []
    list_data_to_gene_checked = []
    threshold = 0.0
    list_data_to_gene = np.array(list_data_to_gene, dtype=float)
    std = np.std(list_data_to_gene, axis=1, ddof=1)
    i_orcl = np.where((std > threshold).any(axis=1))[0]
    list_input_to_orcl = [list_data_to_pred[i] for i in i_orcl]
    i = np.random.randint(0, 2)
    list_input_to_orcl = list_input_to_orcl[:i]
    pred_list = np.mean(list_data_to_gene, axis=1)
    pred_list[i_orcl] = 0
    list_data_to_gene_checked = list(pred_list)
    return list_input_to_orcl, list_data_to_gene_checked


def adjust_input_for_oracle(to_orcl_buffer, pred_list):
    threshold = 0.0
    std = np.std(np.array(pred_list, dtype=float), axis=0, ddof=1)
    i_orcl_sorted = np.argsort(np.mean(std, axis=1), axis=0)[::-1]
    to_orcl_buffer = np.array(to_orcl_buffer, dtype=float)[i_orcl_sorted]
    std = std[i_orcl_sorted]
    to_orcl_buffer = list(to_orcl_buffer[np.nonzero((std > threshold).any(axis=1))[0]])
    return to_orcl_buffer
