from __future__ import annotations

from hypothesis import settings

# The same examples each time, and none has a deadline: other processes want the processor, too.
settings.register_profile("machines", deadline=None, derandomize=True, database=None)
settings.load_profile("machines")
