"""Pure mathematics on sums: starts, steps, convergence."""
