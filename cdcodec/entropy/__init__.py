"""Exact entropy coding: tables, ANS and integer networks (``formats/entropy.md``)."""

from cdcodec.entropy.ans import PRECISION
from cdcodec.entropy.coder import MAX_CARDINALITY, Coder, Meter, Reader, Writer
from cdcodec.entropy.exact import ExactLayer, ExactNet
from cdcodec.entropy.tables import MAX_MAGNITUDE, Tables, gaussian_tables, tables_from_pmf

__all__ = [
    "MAX_CARDINALITY",
    "MAX_MAGNITUDE",
    "PRECISION",
    "Coder",
    "ExactLayer",
    "ExactNet",
    "Meter",
    "Reader",
    "Tables",
    "Writer",
    "gaussian_tables",
    "tables_from_pmf",
]
