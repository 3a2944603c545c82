"""Projection onto a hyperplane inside the box of all images."""

from __future__ import annotations

import torch
from torch import Tensor

from qra.triton_kernels import kernels_of
from qra.types import Norm

_ROUNDS = 10
"""Newton steps on a GPU without the kernel; enough for planes within 90 % of what a point can reach in the box."""
_KERNELS = "qra.attacks.kernels"
_WIDEST = 2**14
"""Largest number of coordinates of a point that the kernel supports."""


def _is_fused(points: Tensor) -> bool:
    """Return whether the single Triton kernel supports these points."""
    fits = points.dtype == torch.float32 and 0 < points.shape[1] <= _WIDEST and len(points) > 0
    return points.device.type == "cuda" and fits and kernels_of(_KERNELS) is not None


def fused(points: Tensor, w: Tensor, offset: Tensor, norm: Norm) -> Tensor:
    """Compute what :func:`project_onto_plane` does, in one kernel launch."""
    kernels = kernels_of(_KERNELS)
    assert kernels is not None  # checked by `_is_fused`
    out = torch.empty_like(points)
    block = 1 << (points.shape[1] - 1).bit_length()
    warps = min(max(block // 512, 1), 16)
    arguments = points.contiguous(), w.contiguous(), offset.contiguous(), out, points.shape[1]
    with torch.cuda.device_of(points):  # type: ignore[no-untyped-call]  # Triton launches on the current device
        kernels.project_kernel[(len(points),)](*arguments, l2=norm == "l2", block=block, num_warps=warps)
    return out


def project_onto_plane(points: Tensor, w: Tensor, offset: Tensor, norm: Norm) -> Tensor:
    """Return the shortest displacement of points to their hyperplanes inside the box [0, 1].

    Each coordinate moves towards the plane, all by the same length (L-inf) or in proportion to ``|w|`` (L2), until it
    reaches the box. Where even the corner of the box falls short of the plane, the displacement to the corner is
    returned. The common factor is the root of a concave, piecewise linear function, which Newton's method finds from
    below in a few steps, without sorting.

    Args:
        points: Points in [0, 1], (N, D).
        w: Normal vectors, (N, D).
        offset: Offsets of the planes ``w @ z = offset``, (N,).
        norm: Norm of the displacement.

    Returns:
        The displacements to add to the points, (N, D).
    """
    if _is_fused(points):
        return fused(points, w, offset, norm)
    return plainly(points, w, offset, norm)


def plainly(points: Tensor, w: Tensor, offset: Tensor, norm: Norm) -> Tensor:
    """Compute what :func:`project_onto_plane` does, with torch operations."""
    excess = (w * points).sum(1) - offset
    w = torch.where(excess[:, None] >= 0, w, -w)
    size = w.abs()
    if norm == "l2":  # as in the authors' code; smaller ones would divide by almost zero
        size = size.where(size > 1e-8, 0)
    speed = size if norm == "l2" else (size > 0).to(w)
    room = torch.where(w > 0, points, 1 - points)
    rounds = None if points.device.type == "cpu" else _ROUNDS
    factor = newton(size, speed, room, excess.abs(), rounds)
    move = torch.minimum(factor[:, None] * speed, room)
    return torch.where(w > 0, -move, move).where(size > 0, 0)


def newton(size: Tensor, speed: Tensor, room: Tensor, excess: Tensor, rounds: int | None = None) -> Tensor:
    """Solve ``sum(size * min(t * speed, room)) = excess`` for each row.

    Args:
        size: Weight of a coordinate's move, at least 0, (N, D).
        speed: How far a coordinate moves per unit of ``t``, at least 0, (N, D).
        room: How far a coordinate can move, at least 0, (N, D).
        excess: Required weighted sum of the moves, at least 0, (N,).
        rounds: Number of Newton steps. They include no convergence check, which would synchronize with a GPU. None
            iterates until convergence, at most D steps.

    Returns:
        The smallest such ``t``, (N,); infinite where the sum stays below ``excess`` for every ``t``.
    """
    rate, limit = size * speed, size * room
    t = torch.zeros_like(excess)
    for _ in range(size.shape[1] if rounds is None else rounds):
        free = t[:, None] * speed < room
        root = (excess - torch.where(free, 0, limit).sum(1)) / torch.where(free, rate, 0).sum(1)
        root = torch.fmax(root, t)  # 0 / 0 where no coordinate is free and no excess remains
        if rounds is None and torch.equal(root, t):
            break
        t = root  # a root stays where it is once reached
    return t
