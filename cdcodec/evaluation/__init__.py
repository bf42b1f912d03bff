"""Measuring codecs: real files, the same work for all of them, one report."""
