"""SadTalker's own networks: photo and voice to 3DMM coefficients, and coefficients to frames."""
