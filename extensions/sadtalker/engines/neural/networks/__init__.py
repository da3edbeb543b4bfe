"""The networks, written afresh; their weights come in upstream's names."""
