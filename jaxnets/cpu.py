"""What makes a CPU faster but touches the whole process, so that it is never done at import."""


def tune_cpu() -> None:
    """Placeholder until the allocator settings land."""
