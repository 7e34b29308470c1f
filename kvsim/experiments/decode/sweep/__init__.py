"""Many simulations for one question: sweeps over whole grids of cells, and what a change would do.

`sweep` keeps every finished cell on disk; `whatif` simulates a result again on hardware or settings one does not have.
"""
