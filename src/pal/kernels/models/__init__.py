"""Potentials and surrogates."""
