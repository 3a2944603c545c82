"""Times for people."""


class UntoldError(ValueError):
    """A time that cannot be told, of something that may be done all the same."""


def duration(seconds: float | None) -> str:
    """A time such as ``47.4 s``, ``1 min 52 s``, ``12 min`` or ``1 h 05 min``; a dash if it is not known."""
    if seconds is None:
        return "-"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    if round(seconds) < 600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
