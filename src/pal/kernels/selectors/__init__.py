"""Decisions on what is worth a label."""
