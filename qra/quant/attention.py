"""Attention with plain linear projections, which quantization can swap, in place of fused modules."""

from __future__ import annotations

import math
import sys
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

_FUSED = {"in_proj.weight": "in_proj_weight", "in_proj.bias": "in_proj_bias"}


def split_attention(network: nn.Module) -> None:
    """Give attention modules plain linear projections, in place. The keys of the ``state_dict`` do not change.

    This concerns ``nn.MultiheadAttention``, unless it adds bias tokens or zero attention, has separate key or value
    dimensions or belongs to one of PyTorch's transformer layers, and the shifted-window attention of torchvision's Swin
    transformers.
    """
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.MultiheadAttention and not _is_torch(parent) and _is_usual(child):
                setattr(parent, name, SelfAttention(child))
    windows = _swin_windows()
    for module in network.modules():
        if windows is not None and type(module) is windows:
            members = {"forward": _windowed_attention, "__module__": windows.__module__, _SPLIT: True}
            module.__class__ = type(windows.__name__, (windows,), members)


def join_attention(network: nn.Module) -> None:
    """Undo :func:`split_attention`."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, SelfAttention):
                setattr(parent, name, child.fused())
        if _SPLIT in vars(type(parent)):
            parent.__class__ = type(parent).__mro__[1]


_SPLIT = "_has_plain_projections"
"""Marks the modified class of a Swin transformer's window attention."""


def _is_torch(module: nn.Module) -> bool:
    """Whether ``module`` is a PyTorch module (no container), which may read its attention's fused weights directly."""
    is_container = isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
    return type(module).__module__.startswith("torch.nn.") and not is_container


def _is_usual(attention: nn.MultiheadAttention) -> bool:
    return bool(attention._qkv_same_embed_dim) and attention.bias_k is None and not attention.add_zero_attn


class SelfAttention(nn.Module):
    """Multi-head self-attention with linear layers ``in_proj`` (queries, keys and values at once) and ``out_proj``.

    It shares the parameters of the module it replaces, under the same keys of the ``state_dict``.

    Args:
        fused: The module to replace.
    """

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        super().__init__()
        width, biased = fused.embed_dim, fused.in_proj_bias is not None
        self.in_proj = nn.Linear(width, 3 * width, biased, device="meta")
        self.in_proj.weight, self.in_proj.bias = fused.in_proj_weight, fused.in_proj_bias
        self.out_proj = nn.Linear(width, width, biased, device="meta")
        self.out_proj.weight, self.out_proj.bias = fused.out_proj.weight, fused.out_proj.bias
        self.num_heads, self.dropout, self.batch_first = fused.num_heads, fused.dropout, fused.batch_first
        self.train(fused.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: None = None,
        need_weights: bool = True,
        attn_mask: None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Like ``nn.MultiheadAttention``, but keys and values must be the queries, and masks are not supported.

        Args:
            query: Tokens, (N, L, C), or (L, N, C) unless ``batch_first``.
            key: The same tensor as ``query``.
            value: The same tensor as ``query``.
            key_padding_mask: Must be None.
            need_weights: Whether to return the attention weights, (N, L, L).
            attn_mask: Must be None.
            average_attn_weights: Whether to average these weights over heads; otherwise they are (N, heads, L, L).
            is_causal: Must be False.

        Raises:
            ValueError: If keys or values are not the queries, or a mask is given.
        """
        masked = is_causal or key_padding_mask is not None or attn_mask is not None
        if masked or not (query is key is value):
            raise ValueError("attention with masks, or of one sequence to another, cannot be quantized")
        projected = self.in_proj(query if self.batch_first else query.transpose(0, 1))
        q, k, v = _heads(projected, self.num_heads)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            weights = F.dropout(_scores(q, k).softmax(-1), dropout)
            tokens = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            tokens = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        tokens = self.out_proj(tokens.transpose(1, 2).flatten(2))
        return tokens if self.batch_first else tokens.transpose(0, 1), weights

    def fused(self) -> nn.MultiheadAttention:
        """Return an ``nn.MultiheadAttention`` that shares these parameters."""
        width, biased = self.out_proj.in_features, self.out_proj.bias is not None
        settings = {"bias": biased, "batch_first": self.batch_first, "device": "meta"}
        fused = nn.MultiheadAttention(width, self.num_heads, self.dropout, **settings)
        fused._parameters.update({_FUSED[f"in_proj.{key}"]: value for key, value in self.in_proj._parameters.items()})
        fused.out_proj._parameters.update(self.out_proj._parameters)
        return fused.train(self.training)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        found, prefix = super().state_dict(*args, **kwargs), kwargs.get("prefix", "")
        for own, key in _FUSED.items():
            if prefix + own in found:
                found[prefix + key] = found.pop(prefix + own)
        return found

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for own, key in _FUSED.items():
            if prefix + key in state_dict:
                state_dict[prefix + own] = state_dict.pop(prefix + key)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _heads(projected: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split (N, L, 3 C) into the queries, keys and values of each head, (N, heads, L, C / heads)."""
    parts = torch.unflatten(projected, -1, (3, count, -1)).permute(2, 0, 3, 1, 4)
    return parts[0], parts[1], parts[2]


def _scores(q: Tensor, k: Tensor) -> Tensor:
    scores: Tensor = q @ k.transpose(-2, -1) * q.size(-1) ** -0.5
    return scores


# ----- the windows of Swin transformers -----


def _swin_windows() -> type[nn.Module] | None:
    """Return the class of the Swin transformer's attention, or None if torchvision's module was never imported."""
    module = sys.modules.get("torchvision.models.swin_transformer")
    return None if module is None else cast(type[nn.Module], module.ShiftedWindowAttention)


def _windowed_attention(self: Any, x: Tensor) -> Tensor:
    """Attention within windows, shifted or not (Liu et al. 2021, arXiv 2103.14030), on (N, H, W, C)."""
    windows = windows_of(x, self.window_size, self.shift_size)
    q, k, v = _heads(self.qkv(windows), self.num_heads)
    scores = _scores(q, k) + self.get_relative_position_bias()
    weights = masked(scores, x, self.window_size, self.shift_size).softmax(-1)
    tokens = F.dropout(weights, self.attention_dropout, self.training) @ v
    tokens = F.dropout(self.proj(tokens.transpose(1, 2).flatten(2)), self.dropout, self.training)
    return image_of(tokens, x, self.window_size, self.shift_size)


def _padded(x: Tensor, size: list[int], shift: list[int]) -> tuple[list[int], list[int]]:
    """Return the padded height and width of (N, H, W, C), and the shift, which is 0 on an axis of only one window."""
    whole = [math.ceil(length / window) * window for length, window in zip(x.shape[1:3], size, strict=True)]
    return whole, [0 if window >= length else by for window, length, by in zip(size, whole, shift, strict=True)]


def _cut(x: Tensor, size: list[int]) -> Tensor:
    """Cut (N, H, W, C) into windows, (N, count, area, C)."""
    parts = torch.unflatten(torch.unflatten(x, 2, (-1, size[1])), 1, (-1, size[0]))
    return parts.transpose(2, 3).flatten(3, 4).flatten(1, 2)


@fx.wrap
def windows_of(x: Tensor, size: list[int], shift: list[int]) -> Tensor:
    """Pad (N, H, W, C) with zeros, roll it back by the shift and cut it into windows, (N * count, area, C)."""
    whole, by = _padded(x, size, shift)
    x = F.pad(x, (0, 0, 0, whole[1] - x.shape[2], 0, whole[0] - x.shape[1]))
    return _cut(x.roll((-by[0], -by[1]), (1, 2)), size).flatten(0, 1)


@fx.wrap
def image_of(windows: Tensor, x: Tensor, size: list[int], shift: list[int]) -> Tensor:
    """Invert :func:`windows_of`. The result has the shape of ``x``, except for its channels."""
    whole, by = _padded(x, size, shift)
    rows, columns = whole[0] // size[0], whole[1] // size[1]
    parts = windows.view(-1, rows, columns, size[0], size[1], windows.shape[-1])
    image = parts.transpose(2, 3).reshape(-1, *whole, windows.shape[-1])
    return image.roll((by[0], by[1]), (1, 2))[:, : x.shape[1], : x.shape[2]].contiguous()


@fx.wrap
def masked(scores: Tensor, x: Tensor, size: list[int], shift: list[int]) -> Tensor:
    """Mask scores, (N * count, heads, area, area), between tokens that are neighbours only because of the roll."""
    whole, by = _padded(x, size, shift)
    if not any(by):
        return scores
    parts = [_parts_of_axis(*axis, scores.device) for axis in zip(whole, size, by, strict=True)]
    labels = _cut((3 * parts[0][:, None] + parts[1]).view(1, *whole, 1), size)[0, :, :, 0]
    apart = labels[:, None, :, None] != labels[:, None, None, :]
    mask = torch.zeros(apart.shape, dtype=scores.dtype, device=scores.device).masked_fill_(apart, -100.0)
    return (torch.unflatten(scores, 0, (-1, len(labels))) + mask).flatten(0, 1)


def _parts_of_axis(length: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Label each position of a rolled axis by the part it comes from. Only the last window holds two parts."""
    places = torch.arange(length, device=device)
    if not shift:
        return torch.zeros_like(places)
    return (places >= length - window).long() + (places >= length - shift).long()
