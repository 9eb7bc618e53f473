"""Sources of ground truth."""
