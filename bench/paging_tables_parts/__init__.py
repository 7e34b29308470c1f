"""The parts of the tables of a prefetching experiment; `bench/paging_tables.py` is the command."""
