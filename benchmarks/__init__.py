"""Side-by-side timings against the alternatives; printed, never asserted. ``make bench``."""
