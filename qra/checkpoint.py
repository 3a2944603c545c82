"""Loading networks and their descriptions from checkpoints, which are untrusted files."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from qra import rebuild, weights
from qra.checkpoint_file import KEY as KEY
from qra.checkpoint_file import read as read
from qra.checkpoint_file import sha256 as sha256
from qra.describe import describe, differences
from qra.files import plain
from qra.quant import QuantScheme, convert
from qra.quant.network import (
    check_fixed,
    check_positive_learned,
    fake_quantizers,
    is_fixed,
    quantizer_keys,
    restart_weight_quantizers,
)

OWN = weights.OWN
"""Prefix of the names of the network's weights."""


def state_of(
    network: nn.Module, content: Mapping[str, Any], path: str | Path, weights_key: str | None = None
) -> dict[str, Tensor]:
    """Return the weights of a network in a checkpoint by their names in the network, all of them finite.

    A one-line warning is logged if a prefix was removed or names are missing or extra. Learned parameters of quantizers
    may be missing without notice; whoever loads the weights has to handle that.

    Args:
        network: A network of the checkpoint's architecture; not changed.
        content: Content of the checkpoint, from :func:`read`.
        path: Path of the file, for messages.
        weights_key: Key of the weights in the file, with dots between nested keys; by default wherever they fit.

    Raises:
        ValueError: If no weights in the file fit, several do, or values are missing or not finite.
    """
    quantizers, expected = quantizer_keys(network), network.state_dict()
    if shapeless := [key for key, value in expected.items() if is_lazy(value)]:
        raise ValueError(f"{path}: the network's {shapeless[0]} has no shape yet: run the network on an image first")
    unset = [key for key in quantizers if not expected[key].float().isfinite().all()]  # not initialized from data yet
    fixed = {key for key, quantizer in quantizers.items() if is_fixed(quantizer)}
    if KEY in content and isinstance(content.get("state_dict"), Mapping):
        weights_key = weights_key or "state_dict"
    try:
        match = weights.find(content, expected, quantizers, weights_key)
        weights.check_finite(match.state, unset)
        if lost := fixed - match.state.keys():
            raise ValueError(
                f"has no codes of its quantized weights ({min(lost)}), like files of older versions: calibrate the "
                "float checkpoint again (qra test --ckpt_path FLOAT --trainer.callbacks+ callback/pwlq)"
            )
        check_fixed(network, match.state)
        check_positive_learned(network, match.state)
    except ValueError as reason:
        raise ValueError(f"{path}: {reason}") from None
    weights.log_match(path, match)
    kept = {name: value for name, value in expected.items() if name in match.missing}
    return {**match.state, **kept}


def load_weights(
    network: nn.Module, path: str | Path, scheme: QuantScheme | None = None, weights_key: str | None = None
) -> bool:
    """Initialize a network with the weights of a checkpoint of the same architecture.

    The checkpoint may hold the float network, or one quantized to other bit widths. Learned parameters of quantizers
    are loaded if the checkpoint has them and they keep their meaning; otherwise step sizes of weights are initialized
    from the weights, and clip levels as the scheme says.

    Args:
        network: Network to load into, already converted if there is a scheme.
        path: A checkpoint of a run, or a file of weights in any layout.
        scheme: Quantization scheme of ``network``.
        weights_key: Key of the weights in the file, if several would fit.

    Returns:
        Whether the checkpoint has a different scheme, so that the network now computes another function.

    Raises:
        ValueError: If the checkpoint cannot be read or belongs to a different network; nothing is loaded then.
    """
    content, expected = read(path), network.state_dict()
    try:
        state = state_of(network, content, path, weights_key)
    except ValueError as reason:
        if scheme is not None or scheme_description(content) is None:
            raise
        raise ValueError(
            f"{reason}; the checkpoint is quantized, this network is float: give it a model.scheme"
        ) from None
    changed = any(differences(scheme_description(content), describe(scheme)))
    absent = set()
    for key, quantizer in quantizer_keys(network).items():
        if key not in state or (changed and quantizer.settings.state_depends_on_bits):
            absent.add(key)
            state[key] = expected[key]
    network.load_state_dict(with_versions(network, state))
    restart_weight_quantizers(network, absent)
    return changed


def _about(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the description in a checkpoint; empty if there is none."""
    return checkpoint.get(KEY) or {}


def scheme_description(checkpoint: Mapping[str, Any]) -> Any:
    """Return the description of the scheme in a checkpoint; None for a float network."""
    return _about(checkpoint).get("scheme")


def rebuild_scheme(checkpoint: Mapping[str, Any]) -> QuantScheme | None:
    """Return the quantization scheme of a checkpoint; None for a float network.

    Raises:
        ValueError: If it names anything but quantizers of this package or of modules imported before.
    """
    description = scheme_description(checkpoint)
    return None if description is None else rebuild.rebuild_scheme(description)


def check_scheme(checkpoint: Mapping[str, Any], scheme: QuantScheme | None, path: str | Path) -> None:
    """Check that a checkpoint was trained or calibrated with the given scheme.

    Raises:
        ValueError: If the schemes differ.
    """
    found, expected = scheme_description(checkpoint), describe(scheme)
    reason = "; ".join(differences(found, expected))
    if not reason:
        return
    if expected is None:
        reason = "it is quantized, this network is float"
    elif found is None:
        reason = "it is float, this network is quantized"
    raise ValueError(
        f"{path}: is a checkpoint of another quantization scheme ({reason}): set the model's scheme to that of the "
        "checkpoint, or train from its weights by init_from"
    )


def check_classes(checkpoint: Mapping[str, Any], class_names: Sequence[str], path: str | Path) -> None:
    """Check that each class has the same number in the data as in the checkpoint, as far as the checkpoint has names.

    Raises:
        ValueError: If one does not; the message names the first.
    """
    if line := moved_class(checkpoint, class_names):
        raise ValueError(f"{path}: {line}: give data of the same classes in the same order")


def moved_class(checkpoint: Mapping[str, Any], class_names: Sequence[str]) -> str | None:
    """Return a message if a class of the data has a different number in the checkpoint; None otherwise."""
    numbers = _class_numbers(checkpoint)
    for number, name in enumerate(class_names):
        if numbers.get(name, number) != number:
            return (
                f"was trained with the class {name!r} as number {numbers[name]}, but in the data it is number {number}"
            )
    return None


def check_classes_of(path: str | Path, class_names: Sequence[str]) -> None:
    """Check the classes of data as :func:`check_classes` does, for a checkpoint file."""
    check_classes(read(path), class_names, path)


def other_class_names(checkpoint: Mapping[str, Any], class_names: Sequence[str]) -> str | None:
    """Return a message if a checkpoint has class names but none of the data's; None otherwise."""
    stored = list(_class_numbers(checkpoint))
    if not stored or set(stored) & set(class_names):
        return None
    trained, here = (
        ", ".join(map(plain, [*names[:3], "..."] if len(names) > 3 else names)) for names in (stored, class_names)
    )
    return f"trained on the classes {trained}, tested on {here}: accuracies count only if these are the same, in order"


def _class_numbers(checkpoint: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of each class name in a checkpoint, as far as it has names."""
    stored = _about(checkpoint).get("classes")
    names = enumerate(stored if isinstance(stored, list) else [])
    return {name: number for number, name in names if isinstance(name, str)}


def load(path: str | Path, network: nn.Module | None = None, weights_key: str | None = None) -> nn.Module:
    """Load a network from a checkpoint, ready to be attacked with any library.

    Args:
        path: A checkpoint of a run (``best.ckpt``, ``last.ckpt``) or a published one; with ``network``, any file of its
            weights saved by ``torch.save`` or in the safetensors format.
        network: The architecture, float or converted; needed only if the checkpoint does not describe it or names a
            class that qra does not know.
        weights_key: Key of the weights in the file, with dots between nested keys, if several would fit.

    Returns:
        The network in eval mode on the CPU, which maps pixels in [0, 1], (N, C, H, W), to logits (N, classes).

    Raises:
        ValueError: If the file cannot be read, its network cannot be rebuilt, or the weights do not fit it.
    """
    content = read(path)
    try:
        if network is None:
            network = rebuild.rebuild(_about(content).get("network"))
        scheme = None if fake_quantizers(network) else rebuild_scheme(content)
    except ValueError as reason:
        raise ValueError(f"{path}: {reason}") from None
    if scheme is not None:
        convert(network, scheme)
    state = state_of(network, content, path, weights_key)
    lacking = [key for key in quantizer_keys(network) if key not in state]
    if lacking:
        raise ValueError(f"{path}: is a checkpoint of a different network: it has no {lacking[0]}")
    network.load_state_dict(with_versions(network, state))
    return network.eval()


def with_versions(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with the versions of a module's parts, without which some, such as MNASNet, load nothing."""
    found = OrderedDict(state)
    found._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    return found


def normalization(checkpoint: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """Return the per-channel mean and standard deviation in the description of a checkpoint's network, or None."""
    description = _about(checkpoint).get("network")
    arguments = description.get("init_args") if isinstance(description, Mapping) else None
    mean, std = (arguments.get(name) if isinstance(arguments, Mapping) else None for name in ("mean", "std"))
    if not (isinstance(mean, list | tuple) and isinstance(std, list | tuple)):
        return None
    return (list(mean), list(std)) if all(type(number) in (int, float) for number in (*mean, *std)) else None
