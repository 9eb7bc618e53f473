"""What several oracles are made of, or one that would be too long."""
