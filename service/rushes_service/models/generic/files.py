"""Single files: none, a pipeline is a directory or a repository."""

from __future__ import annotations

from rushes_service.models.loading.build_plans import BuildPlan

BUILD_PLANS: tuple[BuildPlan, ...] = ()
