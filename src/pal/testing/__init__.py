"""Public checks of user kernels, and tools for tests."""
