"""The virtual world: the real controller under schedules of faults, one seed, one history."""
