"""Weights in models/: what a file is, where it is, and which of them are in memory. Knows no network, runs no model, downloads
nothing."""
