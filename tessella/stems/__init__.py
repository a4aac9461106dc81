"""Stems: a modality in, Tokens out."""
