"""Wan2.2's files are read by the plans of Wan's room: classes and names are the same."""

from __future__ import annotations

from rushes_service.models.loading.build_plans import BuildPlan

BUILD_PLANS: tuple[BuildPlan, ...] = ()
