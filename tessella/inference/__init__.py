"""Inference: trained models rewritten for speed."""
