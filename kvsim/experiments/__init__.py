"""One package an experiment; `registry` has a line for each, `types` what every one of them offers."""
