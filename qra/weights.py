"""Finding a network's weights in files of any layout, and matching their names."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qra.files import plain

OWN = "network."
"""Prefix of the network's names in the checkpoint of a run."""
_LAYERS = 3
"""Maximum depth of mappings below the top level in which weights are looked for."""
_WRAPPERS = 5
"""Maximum number of wrappers (parallel training, training classes, compilation) that may have prefixed names."""
_COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
"""Entries that do not affect the logits."""
_NORMALIZATION = {"mean": 0.0, "mu": 0.0, "std": 1.0, "sigma": 1.0}
"""Buffers of pixel normalization, each with its neutral value. Many files lack them, and others have them in a wrapper
around the network."""
_SAME = 1e-3
"""Difference between means or standard deviations, in pixel units, that is attributed to rounding."""
_MOST_NORMALIZED = 16
"""Maximum number of channels of an image."""

State = dict[str, Tensor]


class Match(NamedTuple):
    """The result of matching a file's weights with a network.

    Attributes:
        key: Key of the weights in the file, with dots between nested keys; empty for the top level.
        prefix: Prefix that was removed from their names.
        state: The weights, by their names in the network.
        missing: Names in the network that the file lacks.
        extra: Names in the file, as written there, that the network lacks.
        difference: Reason in words why the weights do not fit; empty if they do.
    """

    key: str
    prefix: str
    state: State
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    difference: str


def find(content: Mapping[str, Any], expected: Mapping[str, Tensor], optional: Iterable[str], key: str | None) -> Match:
    """Find the weights of a network in the content of a file.

    Args:
        content: Nested mappings that hold tensors.
        expected: The network's own ``state_dict``.
        optional: Names that may be missing.
        key: Key of the weights, with dots between nested keys, if several would fit, or a prefix of their names.

    Raises:
        ValueError: If no weights fit, or several do.
    """
    places = dict(containers(content))
    if key is not None:
        inside = f"{key}."
        begun = {name.removeprefix(inside): v for name, v in places.get("", {}).items() if name.startswith(inside)}
        if not (key in places or begun):
            raise ValueError(f"has no weights under {key}, but under {_some(filter(None, places)) or 'no key at all'}")
        places = {key: places.get(key, begun)}
    matches = [_best(place, found, expected, frozenset(optional)) for place, found in places.items()]
    if not matches:
        raise ValueError("is not a checkpoint of a run: it has no state_dict, and no weights under another name")
    fitting = _distinct([match for match in matches if not match.difference])
    if len(fitting) > 1:
        keys = " and under ".join(match.key or "no key" for match in fitting)
        raise ValueError(f"has weights that fit under {keys}: choose by --weights_key (weights_key of qra.load)")
    if not fitting:
        closest = max(matches, key=lambda match: len(match.state))
        raise ValueError(f"is a checkpoint of a different network: {closest.difference}")
    shaped = {name: value.reshape(expected[name].shape) for name, value in fitting[0].state.items()}
    return fitting[0]._replace(state=shaped)


def containers(content: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """Yield the mappings of a file that hold tensors, with their keys; each has all tensors in it, however nested."""
    tensors = dict(_tensors(content))
    if not tensors or depth > _LAYERS:
        return
    yield key, tensors
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Mapping):
            yield from containers(value, f"{key}.{name}" if key else name, depth + 1)


def _tensors(content: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(content, Mapping) or depth > 2 * _LAYERS:
        return
    for name, value in content.items():
        if isinstance(name, str):
            if isinstance(value, Tensor):
                yield prefix + name, value
            else:
                yield from _tensors(value, f"{prefix}{name}.", depth + 1)


def _best(key: str, found: State, expected: Mapping[str, Tensor], optional: frozenset[str]) -> Match:
    """Match the names in the way in which most of them agree with the network's."""
    prefix, inner = _reading(found, expected)
    state, extra = {}, []
    for name, value in found.items():
        here = inner + name.removeprefix(prefix)
        if name.startswith(prefix) and here in expected:
            state[here] = value
        else:
            extra.append(name)
    missing = tuple(name for name in expected if name not in state and name not in optional)
    wrong = (_wrong(name, value, expected[name]) for name, value in state.items())
    absent = [name for name in missing if _matters(name, expected[name])]
    unknown = [name for name in extra if _matters(name, found[name])]
    own = {**expected, **state}
    normalized = (_otherwise_normalized(name, found[name], own) for name in extra)
    inside = any(name.startswith(prefix) for name in unknown)
    difference = _difference(absent, unknown, "" if inside else f"{key}.{prefix}".strip("."))
    difference = difference or next(filter(None, wrong), "") or next(filter(None, normalized), "")
    return Match(key, prefix, state, missing, tuple(extra), difference)


def _difference(absent: list[str], unknown: list[str], part: str) -> str:
    has_no = f"it has no {_some(absent)}" if absent else ""
    has_more = f"it has {_some(unknown)}, which this one lacks" if unknown else ""
    if part and unknown and not absent:
        has_more += f": take the weights under {part} alone by --weights_key (weights_key of qra.load)"
    return ", and ".join(filter(None, (has_no, has_more)))


def _reading(found: State, expected: Mapping[str, Tensor]) -> tuple[str, str]:
    """Return the prefix of the file's names, and the part of the network that the file's weights belong to.

    That part is the network itself, or the network inside a wrapper that normalizes pixels.
    """
    agreeing: Counter[tuple[str, str]] = Counter({("", ""): 0})
    for name in found:
        prefix, rest = "", name
        for _ in range(_WRAPPERS + 1):
            for inner in ("", OWN):
                agreeing[prefix, inner] += inner + rest in expected
            word, dot, rest = rest.partition(".")
            prefix += word + dot
    return max(agreeing, key=lambda way: (agreeing[way], -len(way[0]), -len(way[1])))


def _distinct(matches: list[Match]) -> list[Match]:
    """Drop matches with the same tensors as another one, keeping the one whose names are closest to the network's."""
    kept: dict[frozenset[int], Match] = {}
    for match in sorted(matches, key=lambda match: len(match.prefix)):
        kept.setdefault(frozenset(map(id, match.state.values())), match)
    return list(kept.values())


def _wrong(name: str, value: Tensor, expected: Tensor) -> str:
    """Return why a tensor cannot replace another; empty if it can."""
    if not is_plain(value):
        return f"its {name} is not a plain tensor"
    alike = value.numel() == expected.numel() if _normalizes(name, value) else value.shape == expected.shape
    if not alike:
        return f"its {name} has the shape {tuple(value.shape)}, not {tuple(expected.shape)}"
    if expected.is_floating_point() and not value.is_floating_point():
        return f"its {name} holds {str(value.dtype).removeprefix('torch.')}, not floating-point weights"
    return ""


def is_plain(value: Tensor) -> bool:
    """Whether a tensor of a file has a number of its own in memory at each place it has, or one that repeats."""
    return (
        type(value) in (Tensor, torch.nn.Parameter)
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_meta)
    )


def _matters(name: str, value: Tensor) -> bool:
    """Return whether logits depend on an entry, apart from pixel normalization, which is compared separately."""
    return name.rpartition(".")[2] not in _COUNTERS and not _normalizes(name, value)


def _normalizes(name: str, value: Tensor) -> bool:
    """Return whether an entry is a mean or standard deviation of pixels."""
    return name.rpartition(".")[2] in _NORMALIZATION and 0 < value.numel() <= _MOST_NORMALIZED


def _otherwise_normalized(name: str, value: Tensor, own: Mapping[str, Tensor]) -> str:
    """Return how a mean or deviation that the network has no place for differs from the network's own, or ``""``.

    Args:
        name: Name of the entry, as in the file.
        value: The entry, in pixel units or in units of bytes.
        own: Entries that the network has, or will have after loading the file.
    """
    if not _normalizes(name, value):
        return ""
    neutral = _NORMALIZATION[name.rpartition(".")[2]]
    values = value.double().flatten()
    mine = [
        other.double().flatten()
        for key, other in own.items()
        if _normalizes(key, other) and _NORMALIZATION[key.rpartition(".")[2]] == neutral
    ] or [values.new_full((1,), neutral)]
    for other in mine:
        fits = other.numel() in (1, values.numel())
        if fits and any((values / unit - other).abs().max() <= _SAME for unit in (1, 255)):
            return ""
    shown = ", ".join(f"{number:.4g}" for number in values.tolist())
    return f"it normalizes pixels by {name} = {shown}, unlike this network: give it the mean and std of the file"


def check_finite(state: Mapping[str, Tensor], exempt: Iterable[str] = ()) -> None:
    """Check that weights are finite, unless in ``exempt``, and that each ``running_var`` is not negative.

    Raises:
        ValueError: If any are not; the message has the name of the first.
    """
    exempt = set(exempt)
    for name, value in state.items():
        numbers = value.float()
        if name not in exempt and value.is_floating_point() and not numbers.isfinite().all():
            raise ValueError(f"its {name} holds values that are not finite: its training diverged, or it is damaged")
        if name.endswith("running_var") and (numbers < 0).any():
            raise ValueError(f"its {name} holds variances below 0: it is damaged")


def log_match(path: object, match: Match) -> None:
    """Log in one line the key of the weights, a removed prefix, and missing and extra names, if there are any."""
    parts = []
    if match.key not in ("", "state_dict"):
        parts.append(f"took the weights under {match.key}")
    if match.prefix not in ("", OWN):
        parts.append(f"removed {match.prefix} from their names")
    if match.missing:
        parts.append(f"it lacks {_some(match.missing)}, which stay unchanged")
    if match.extra:
        parts.append(f"left out {_some(match.extra)}")
    if parts:
        logging.getLogger("qra").warning("%s: %s", path, "; ".join(parts))


def _some(names: Iterable[str]) -> str:
    """Return the first names and how many more there are."""
    names = list(map(plain, names))
    more = f" and {len(names) - 3} more" if len(names) > 4 else ""
    return ", ".join(names[:3] if more else names) + more
