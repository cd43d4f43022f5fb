"""Measures jaxnets against its peers: `python -m benchmarks`."""
