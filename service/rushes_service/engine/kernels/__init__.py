"""With what a sample is computed: kernels of attention, and ways that are faster and not exact, by wish."""
