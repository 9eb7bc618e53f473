"""The toy of the publication (arXiv 2412.00401, SI S3 to S7), typed in from its text."""

import numpy as np


class UserOracle(object):
    def __init__(self, rank, result_dir):
        self.rank = rank
        self.result_dir = result_dir

    def stop_run(self):
        pass

    def run_calc(self, input_for_orcl):
        orcl_calc_res = None
        orcl_calc_res = np.random.randn(
            4,
        )
        return orcl_calc_res
