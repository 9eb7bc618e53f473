"""What several generators are made of, or one that would be too long."""
