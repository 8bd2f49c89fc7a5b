"""What people call backbones whose file names are lower-case."""

from __future__ import annotations

__all__ = ["shown_backbone"]

_NAMES = {
    "autoint": "AutoInt",
    "dcnv2": "DCNv2",
    "deepfm": "DeepFM",
    "fibinet": "FiBiNet",
    "fignn": "FiGNN",
    "mmoe": "MMoE",
    "shared_bottom": "SharedBottom",
    "xdeepfm": "xDeepFM",
}


def shown_backbone(name: str) -> str:
    """The usual spelling of a file name of `models/ctr` or `models/multi_domain`."""
    return _NAMES.get(name, name.upper())
