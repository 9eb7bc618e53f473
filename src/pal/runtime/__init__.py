"""Agent, nursery and workers: the processes of a campaign."""
