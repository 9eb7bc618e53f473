from __future__ import annotations

from hypothesis import settings

# An example may take long where other processes want the processor, too.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")
