"""Roads between processes: codec, shared memory, doorbells, channels."""
