"""What several selectors are made of."""
