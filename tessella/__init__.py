"""tessella: turn any modality into tokens; attention does the rest."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__", "create", "load"]


def __getattr__(name: str):
    """``tessella.load`` and ``tessella.create``, imported when first used: ``import tessella`` stays light."""
    if name == "load":
        from tessella.predict import load

        return load
    if name == "create":
        from tessella.zoo.catalog import create

        return create
    raise AttributeError(f"module 'tessella' has no attribute '{name}'")
