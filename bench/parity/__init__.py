"""Our stages against golden arrays of upstream's: python -m bench.parity GOLDENS --weights DIR."""
