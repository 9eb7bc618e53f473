"""The hot loop between walkers and committee."""
