"""Finding a network's weights in a file of any layout, and matching their names."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

OWN = "network."
"""What names in a checkpoint of a run begin with."""
_PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.")
"""What wrappers put before names: parallel training, training classes, compilation."""
_LAYERS = 3
"""How many wrappers are looked for, and how many more mappings weights may lie in."""
_COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
"""Entries that no logit depends on."""
_NORMALIZATION = ("mean", "std", "mu", "sigma")
"""Buffers of pixel normalization, which many files lack, and others have in a wrapper around the network."""
_MOST_NORMALIZED = 16
"""Channels of an image, at most."""

State = dict[str, Tensor]


class Match(NamedTuple):
    """How the weights of a file fit a network.

    Attributes:
        key: Where in the file they lie, dots between nested keys; empty for the file itself.
        prefix: What was taken off their names.
        state: The weights, by their names in the network.
        missing: Names of the network that the file lacks.
        extra: Names of the file that the network lacks, in the words of the file.
        difference: Why the weights do not fit, in words; empty if they do.
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
        content: Nested mappings with tensors in them somewhere.
        expected: The network's own ``state_dict``.
        optional: Names that may be missing.
        key: Where the weights lie, dots between nested keys, if several places fit.

    Raises:
        ValueError: If nothing fits, or several places do.
    """
    places = dict(containers(content))
    if key is not None:
        if key not in places:
            raise ValueError(f"has no weights under {key}, but under {_some(filter(None, places)) or 'no key at all'}")
        places = {key: places[key]}
    matches = [_best(place, found, expected, frozenset(optional)) for place, found in places.items()]
    if not matches:
        raise ValueError("is no checkpoint of a run, for it has no state_dict, and no weights under another name")
    fitting = _distinct([match for match in matches if not match.difference])
    if len(fitting) > 1:
        keys = " and under ".join(match.key or "no key" for match in fitting)
        raise ValueError(f"has weights that fit under {keys}: choose by --weights_key (weights_key of qra.load)")
    if not fitting:
        closest = max(matches, key=lambda match: len(match.state))
        raise ValueError(f"is a checkpoint of another network, for {closest.difference}")
    return fitting[0]


def containers(content: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """The mappings of a file that hold tensors, by their keys: each with all tensors in it, however nested."""
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
    """The reading of names under which most agree with the network's."""
    readings = [(prefix, inner) for prefix in _prefixes(found) for inner in _inner(expected)]
    prefix, inner = max(readings, key=lambda way: _agreeing(found, way[0], way[1], expected))
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
    return Match(
        key, prefix, state, missing, tuple(extra), _difference(absent, unknown) or next(filter(None, wrong), "")
    )


def _difference(absent: list[str], unknown: list[str]) -> str:
    has_no = f"it has no {_some(absent)}" if absent else ""
    has_more = f"it has {_some(unknown)}, which this one lacks" if unknown else ""
    return ", and ".join(filter(None, (has_no, has_more)))


def _prefixes(found: State) -> list[str]:
    """What may have been put before all names."""
    known = [""]
    for before in known:
        if before.count(".") < _LAYERS:
            known += [before + more for more in _PREFIXES if any(name.startswith(before + more) for name in found)]
    return known


def _inner(expected: Mapping[str, Tensor]) -> list[str]:
    """Where in the network the network of the file may lie: as it is, or inside a wrapper that normalizes pixels."""
    return ["", OWN] if any(name.startswith(OWN) for name in expected) else [""]


def _agreeing(found: State, prefix: str, inner: str, expected: Mapping[str, Tensor]) -> int:
    return sum(name.startswith(prefix) and inner + name.removeprefix(prefix) in expected for name in found)


def _distinct(matches: list[Match]) -> list[Match]:
    """Without those that are another's tensors again; of those the one whose names are nearest to the network's."""
    kept: dict[frozenset[int], Match] = {}
    for match in sorted(matches, key=lambda match: len(match.prefix)):
        kept.setdefault(frozenset(map(id, match.state.values())), match)
    return list(kept.values())


def _wrong(name: str, value: Tensor, expected: Tensor) -> str:
    """Why a tensor cannot stand for another; empty if it can."""
    if value.layout != torch.strided or value.is_quantized or value.is_meta or type(value) not in _PLAIN:
        return f"its {name} is no plain tensor"
    if value.shape != expected.shape:
        return f"its {name} has the shape {tuple(value.shape)}, not {tuple(expected.shape)}"
    if expected.is_floating_point() and not value.is_floating_point():
        return f"its {name} holds {str(value.dtype).removeprefix('torch.')}, no floating-point weights"
    return ""


_PLAIN = (Tensor, torch.nn.Parameter)


def _matters(name: str, value: Tensor) -> bool:
    """Whether logits depend on an entry in a way that nothing else says."""
    last = name.rpartition(".")[2]
    return last not in _COUNTERS and not (last in _NORMALIZATION and value.numel() <= _MOST_NORMALIZED)


def check_finite(state: Mapping[str, Tensor], exempt: Iterable[str] = ()) -> None:
    """Refuse weights that are infinite or no number, and variances below 0, which make numbers into none.

    Raises:
        ValueError: With the name of the first.
    """
    exempt = set(exempt)
    for name, value in state.items():
        numbers = value.float() if value.element_size() == 1 else value
        if name not in exempt and value.is_floating_point() and not numbers.isfinite().all():
            raise ValueError(f"its {name} holds values that are not finite: its training diverged, or it is damaged")
        if name.endswith("running_var") and (numbers < 0).any():
            raise ValueError(f"its {name} holds variances below 0: it is damaged")


def say(path: object, match: Match) -> None:
    """Tell in one line what was taken off names, what is missing and what is too much, where that is anything."""
    parts = []
    if match.key not in ("", "state_dict"):
        parts.append(f"took the weights under {match.key}")
    if match.prefix not in ("", OWN):
        parts.append(f"took {match.prefix} off their names")
    if match.missing:
        parts.append(f"it lacks {_some(match.missing)}, which stay as they are")
    if match.extra:
        parts.append(f"left out {_some(match.extra)}")
    if parts:
        logging.getLogger("qra").warning("%s: %s", path, "; ".join(parts))


def _some(names: Iterable[str]) -> str:
    """The first names and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 4 else ""
    return ", ".join(names[:3] if more else names) + more
