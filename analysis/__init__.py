"""Is a robustness figure to be believed? Sweeps, checks for masked gradients, landscapes, transfer, one report."""
