"""Exporting: runs become other libraries' files."""
