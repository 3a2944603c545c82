"""Durations in readable form."""


class UntoldError(ValueError):
    """A duration cannot be predicted, although the work itself can be done."""


def duration(seconds: float | None) -> str:
    """Format a duration such as ``47.4 s``, ``1 min 52 s``, ``12 min`` or ``1 h 05 min``; ``-`` if it is unknown."""
    if seconds is None:
        return "-"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    if round(seconds) < 600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
