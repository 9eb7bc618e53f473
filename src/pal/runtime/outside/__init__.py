"""Oracles beyond the job: labels made by an executor, such as Parsl's, wherever it runs."""
