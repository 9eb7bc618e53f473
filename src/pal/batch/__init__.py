"""Batch systems: job scripts, their submission, and what the queue says of a job."""
