"""AutoAttack on a test set, in chunks that can be run in any order, on any rank, and be taken up again."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyautoattack
import torch
from torch import Tensor, nn

from qra.attacks import AutoAttack, Victim
from qra.attacks.autoattack import check_victim
from qra.attacks.base import untouched
from qra.describe import describe
from qra.evaluation.outcome import Outcome
from qra.files import read_json, read_npz
from qra.losses import prediction
from qra.precision import Precision, float32
from qra.quant import FrozenNetwork
from qra.quant.network import activation_quantizers
from qra.writing import write_arrays, write_json

CLEAN, ROBUST = "clean", "robust"
FATES = (CLEAN, "apgd_ce", "apgd_t", "fab_t", "square", ROBUST)
"""What may become of an example: wrong from the start, broken by one of the attacks, or right under all."""

TITLES = {"apgd_ce": "APGD-CE", "apgd_t": "APGD-T", "fab_t": "FAB-T", "square": "Square"}

Watch = Callable[[str, float, int], None]
"""Told the title of the attack at work, the share of the chunk's work that is done, and how many examples are right."""


def attack_chunk(
    network: nn.Module, frozen: FrozenNetwork, attack: AutoAttack, x: Tensor, y: Tensor, watch: Watch
) -> Tensor:
    """Run the four attacks, in order, on what is left of some examples.

    They search on ``frozen``; an example is broken only once ``network`` gets it wrong. Global random generators,
    modes, gradients of parameters and tracing stay as they are.

    Args:
        network: The network that is judged, in float32.
        frozen: Its attack-time copy.
        attack: Its seed is that of the chunk.
        x: Images in [0, 1], (N, C, H, W).
        y: Labels, (N,).
        watch: Told of each iteration.

    Returns:
        The fate of each example, a place in ``FATES``, uint8 on the CPU, (N,).

    Raises:
        ValueError: If AutoAttack does not suit the network.
    """
    done, name = 0.0, ""

    def on_step(work: float) -> None:
        nonlocal done
        done += work / total
        watch(TITLES[name], done, victim.right)

    with float32(x.device), untouched(network), untouched(frozen):
        victim = Victim(network, x.clone(), y.clone(), frozen, on_step)
        check_victim(victim)
        total = attack.work(victim.classes)
        fates = torch.full(y.shape, FATES.index(ROBUST), dtype=torch.uint8, device=y.device)
        fates[victim.broken] = FATES.index(CLEAN)
        planned = 0.0
        for name, member in attack.members().items():
            member.hunt(victim)
            planned += member.work(victim.classes) / total
            done = planned
            fates[victim.broken & (fates == FATES.index(ROBUST))] = FATES.index(name)
            watch(TITLES[name], done, victim.right)
    return fates.cpu()


def upstream(network: nn.Module, attack: AutoAttack, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Run the authors' code in one call on the network itself: the figure to set beside RobustBench.

    Its survivors are packed anew for each attack, so the images that it finds depend on ``batch_size`` and on the order
    of the examples.

    Returns:
        For each example, the place in ``FATES`` of "robust" or, without saying why it is not, of "clean", uint8, (N,).

    Raises:
        ValueError: As :func:`attack_chunk`.
    """
    with torch.inference_mode(False):
        own = copy.deepcopy(network).requires_grad_(False)  # their code would add to the parameters' gradients
    cuda = [x.device] if x.device.type == "cuda" else []
    tracer = sys.gettrace()
    with float32(x.device), untouched(own), torch.random.fork_rng(cuda):
        first = Victim(own, x[:batch_size].clone(), y[:batch_size].clone())
        check_victim(first)
        run = authors_code(own, attack, first.classes, x.device)
        try:
            x_adv, _ = run.run_standard_evaluation(x.clone(), y.clone(), batch_size=batch_size)
        finally:
            sys.settrace(tracer)
        with torch.no_grad():
            right = torch.cat([prediction(own(part)) for part in x_adv.split(batch_size)]) == y
    return torch.where(right, FATES.index(ROBUST), FATES.index(CLEAN)).to(torch.uint8).cpu()


def authors_code(network: nn.Module, attack: AutoAttack, classes: int, device: torch.device) -> pyautoattack.AutoAttack:
    """The authors' standard version with the settings of ``attack``, and no more targets than there are."""
    norm = {"linf": "Linf", "l2": "L2"}[attack.norm]
    made = pyautoattack.AutoAttack(network, norm=norm, eps=attack.eps, seed=attack.seed, device=device)
    made.apgd_targeted.n_target_classes = made.fab.n_target_classes = min(attack.targets, classes - 1)
    for apgd in (made.apgd, made.apgd_targeted):
        apgd.n_iter = attack.steps
        shares = {"n_iter_2": 0.22, "n_iter_min": 0.06, "size_decr": 0.03}
        vars(apgd).update({name: max(int(share * attack.steps), 1) for name, share in shares.items()})
    made.fab.n_iter = attack.steps
    made.square.n_queries = attack.queries
    return made


def fingerprint(network: nn.Module, *descriptions: Any) -> str:
    """A hash of the function that a network is: its weights and buffers, and how roundings are differentiated.

    Args:
        network: Its class is not looked at.
        descriptions: What else is to count, ready for JSON.
    """
    modes = sorted({quantizer.gradient for quantizer in activation_quantizers(network).values()})
    digest = hashlib.sha256(json.dumps([describe(network), modes, *descriptions], sort_keys=True).encode())
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


class ChunkFiles:
    """A directory with the fates of a test set's examples: one file a chunk, and what they depend on.

    Args:
        directory: Made if need be.
        settings: All that the fates depend on, flat and ready for JSON.
        indices: Positions of the examples in the test set, ascending, (n,).
        chunk_size: Number of examples of a chunk; fewer in the last one.

    Raises:
        ValueError: If the directory holds results of other settings.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any], indices: Tensor, chunk_size: int) -> None:
        self.directory = directory
        self.chunks: Sequence[Tensor] = torch.split(indices, chunk_size)
        self._digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        sheet = directory / "settings.json"
        if sheet.exists():
            _check_same(sheet, settings)
        else:
            directory.mkdir(parents=True, exist_ok=True)
            write_json(sheet, settings)

    def read(self, number: int) -> Tensor | None:
        """The fates of a chunk; None if it is not done yet, or its file is cut short or of other settings."""
        try:
            arrays = read_npz(self._path(number), follow=False)
            digest, indices, fates = (arrays[name] for name in ("settings", "indices", "fates"))
        except (OSError, ValueError, KeyError):
            return None
        same = str(digest) == self._digest and np.array_equal(indices, self.chunks[number].numpy())
        known = fates.dtype == np.uint8 and fates.shape == indices.shape and (fates < len(FATES)).all()
        return torch.from_numpy(fates) if same and known else None

    def write(self, number: int, fates: Tensor) -> None:
        """Keep the fates of a chunk, whole or not at all."""
        arrays = {"settings": np.array(self._digest), "indices": self.chunks[number].numpy(), "fates": fates.numpy()}
        write_arrays(self._path(number), arrays)

    def _path(self, number: int) -> Path:
        return self.directory / f"chunk-{number:05d}.npz"


def _check_same(sheet: Path, settings: Mapping[str, Any]) -> None:
    try:
        found = dict(read_json(sheet, follow=False))
    except (ValueError, TypeError):
        raise ValueError(f"{sheet}: cannot be read: remove {sheet.parent} to begin anew") from None
    for name, value in json.loads(json.dumps(settings)).items():
        if found.get(name) != value:
            raise ValueError(
                f"{sheet.parent} holds results of another evaluation ({name} is {found.get(name)}, not {value}): "
                "remove it, or write to another directory by --run"
            )


def outcomes(
    name: str,
    attack: AutoAttack,
    mode: str,
    indices: Tensor,
    fates: Tensor,
    search_precision: Precision = "float32",
) -> Iterator[Outcome]:
    """What a run of :func:`attack_chunk` on all chunks says.

    Args:
        name: Of the outcome.
        attack: With the seed of the whole.
        mode: Goes into the settings.
        indices: Positions in the test set, ascending, (n,).
        fates: As from there, (n,).
        search_precision: That the attacks computed in.

    Yields:
        Which examples are right under all four attacks, then, as ``NAME.ATTACK``, those that are right after each
        of them and all before it.
    """
    settings = {**describe(attack), "mode": mode, "search_precision": search_precision}
    title = "AutoAttack" if search_precision == "float32" else f"AutoAttack, searched in {search_precision}"
    yield Outcome(name, title, settings, indices, fates == FATES.index(ROBUST), attack.eps)
    for member, title in list(TITLES.items())[:-1] if mode == "chunked" else ():
        after = fates > FATES.index(member)
        member_settings = {**settings, "attacks": list(TITLES)[: list(TITLES).index(member) + 1]}
        yield Outcome(f"{name}.{member}", f"  after {title}", member_settings, indices, after, attack.eps)
