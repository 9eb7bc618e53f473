"""What several models are made of, or one that would be too long."""
