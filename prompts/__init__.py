"""Templates, rendering, instruction data sets and their cards."""
