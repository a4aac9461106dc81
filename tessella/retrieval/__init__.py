"""Retrieval: pictures found by what they show."""
