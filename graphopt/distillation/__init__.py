"""Distillation: a student learns its teacher's results on unlabelled samples; held-out samples judge the student."""

from .options import Distil, check_distil
from .result import Distilled, DistilReport
from .run import distil, distil_model

__all__ = ["Distil", "DistilReport", "Distilled", "check_distil", "distil", "distil_model"]
