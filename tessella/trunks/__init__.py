"""Trunks: Tokens in, Tokens out."""
