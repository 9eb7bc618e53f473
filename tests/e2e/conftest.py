from __future__ import annotations

from campaign_fixtures import left_clean, quick, with_report

__all__ = ["left_clean", "quick", "with_report"]
