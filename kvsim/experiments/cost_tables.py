"""Costs that experiments need beside those of a decode step: `kvsim calibrate` measures them all."""

from kvsim.calibration.measure import CostTables
from kvsim.experiments.embedding_rows.calibrate import row_tables
from kvsim.experiments.prompt_cache.calibrate import restore_tables

COST_TABLES: tuple[CostTables, ...] = (restore_tables, row_tables)
