"""For every test of the tree: Hypothesis judges what code does, not how busy the machine is."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("jobs", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("jobs")
