"""Triton kernels of attacks. See :mod:`qra.attacks.planes`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def project_kernel(points, w, offset, out, width, l2: tl.constexpr, block: tl.constexpr):
    """Compute what :func:`qra.attacks.planes.plainly` does; each program handles one point."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, block)
    inside = place < width
    point = tl.load(points + row * width + place, mask=inside, other=0.0)
    normal = tl.load(w + row * width + place, mask=inside, other=0.0)
    excess = tl.sum(normal * point, axis=0) - tl.load(offset + row)
    normal = tl.where(excess >= 0, normal, -normal)
    excess = tl.abs(excess)
    size = tl.abs(normal)
    if l2:
        size = tl.where(size > 1e-8, size, 0.0)
        speed = size
    else:
        speed = tl.where(size > 0, 1.0, 0.0)
    room = tl.where(normal > 0, point, 1 - point)
    t = tl.where(excess > 0, 0.0, 0.0)  # 0 also where the plane is NaN
    goes_on = True
    while goes_on:
        free = t * speed < room
        met = tl.sum(tl.where(free, 0.0, size * room), axis=0)
        root = (excess - met) / tl.sum(tl.where(free, size * speed, 0.0), axis=0)
        goes_on = root > t  # false for 0 / 0, where no coordinate is free and no excess remains
        t = tl.where(goes_on, root, t)
    move = tl.where(size > 0, tl.minimum(t * speed, room), 0.0)
    tl.store(out + row * width + place, tl.where(normal > 0, -move, move), mask=inside)
