"""Studies on many workers: the units of a study, and the engines that run them (Ray, and SLURM through submitit)."""

from __future__ import annotations

from .run import run_scaled

__all__ = ["run_scaled"]
