"""Flow path, time grids, solvers, guidance and the sampler: functions of arrays."""
