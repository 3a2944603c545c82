"""AutoAttack on a test set, in chunks that can be run in any order, on any rank, and be taken up again."""

from __future__ import annotations

import copy
import dataclasses
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

from qra.attacks import AttackState, AutoAttack
from qra.attacks.autoattack import check_network
from qra.attacks.base import untouched
from qra.describe import describe, without_empty
from qra.evaluation.outcome import Outcome
from qra.evaluation.standard import autoattack_names
from qra.files import read_json, read_npz
from qra.losses import prediction
from qra.precision import Precision, float32
from qra.quant import FrozenNetwork
from qra.quant.network import activation_quantizers
from qra.writing import write_arrays, write_json

CLEAN, ROBUST = "clean", "robust"
FIRST_BROKEN_BY = (CLEAN, "apgd_ce", "apgd_t", "fab_t", "square", ROBUST)
"""What may become of an example: wrong from the start, broken by one of the attacks, or correct under all."""

TITLES = {"apgd_ce": "APGD-CE", "apgd_t": "APGD-T", "fab_t": "FAB-T", "square": "Square"}

Watch = Callable[[str, float, int], None]
"""Called with the title of the attack at work, the share of the work done, and the number of correct examples."""


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
        What first broke each example, a place in ``FIRST_BROKEN_BY``, uint8 on the CPU, (N,).

    Raises:
        ValueError: If AutoAttack does not suit the network.
    """
    done, name = 0.0, ""

    def on_step(work: float) -> None:
        nonlocal done
        done += work / total
        watch(TITLES[name], done, state.n_correct)

    with float32(x.device), untouched(network), untouched(frozen):
        state = AttackState(network, x.clone(), y.clone(), frozen, on_step)
        check_network(state)
        total = attack.work(state.classes)
        broken_by = torch.full(y.shape, FIRST_BROKEN_BY.index(ROBUST), dtype=torch.uint8, device=y.device)
        broken_by[state.broken] = FIRST_BROKEN_BY.index(CLEAN)
        planned = 0.0
        for name, member in attack.members().items():
            member.run(state)
            planned += member.work(state.classes) / total
            done = planned
            broken_by[state.broken & (broken_by == FIRST_BROKEN_BY.index(ROBUST))] = FIRST_BROKEN_BY.index(name)
            watch(TITLES[name], done, state.n_correct)
    return broken_by.cpu()


def upstream(network: nn.Module, attack: AutoAttack, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Run the authors' code in one call on the network itself: the figure to set beside RobustBench.

    Its survivors are packed anew for each attack, so the images that it finds depend on ``batch_size`` and on the order
    of the examples.

    Returns:
        For each example, the place in ``FIRST_BROKEN_BY`` of "robust" or, without saying why it is not, of "clean",
        uint8, (N,).

    Raises:
        ValueError: As :func:`attack_chunk`.
    """
    with torch.inference_mode(False):
        own = copy.deepcopy(network).requires_grad_(False)  # their code would add to the parameters' gradients
    cuda = [x.device] if x.device.type == "cuda" else []
    tracer = sys.gettrace()
    with float32(x.device), untouched(own), torch.random.fork_rng(cuda):
        first = AttackState(own, x[:batch_size].clone(), y[:batch_size].clone())
        check_network(first)
        run = authors_code(own, attack, first.classes, x.device)
        try:
            x_adv, _ = run.run_standard_evaluation(x.clone(), y.clone(), batch_size=batch_size)
        finally:
            sys.settrace(tracer)
        with torch.no_grad():
            correct = torch.cat([prediction(own(part)) for part in x_adv.split(batch_size)]) == y
    return torch.where(correct, FIRST_BROKEN_BY.index(ROBUST), FIRST_BROKEN_BY.index(CLEAN)).to(torch.uint8).cpu()


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
    digest = hashlib.sha256(
        json.dumps(without_empty([describe(network), modes, *descriptions]), sort_keys=True).encode()
    )
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


class ChunkFiles:
    """A directory with what first broke each of a test set's examples: one file a chunk, and what they depend on.

    Args:
        directory: Made if need be.
        settings: All that this depends on, flat and ready for JSON.
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
        """What first broke the examples of a chunk; None if it is not done, cut short or of other settings."""
        try:
            arrays = read_npz(self._path(number), follow=False)
            digest, indices = arrays["settings"], arrays["indices"]
            broken_by = arrays["first_broken_by" if "first_broken_by" in arrays else "fates"]  # its name until 0.1.0
        except (OSError, ValueError, KeyError):
            return None
        same = str(digest) == self._digest and np.array_equal(indices, self.chunks[number].numpy())
        fits = broken_by.dtype == np.uint8 and broken_by.shape == indices.shape
        known = fits and bool((broken_by < len(FIRST_BROKEN_BY)).all())
        return torch.from_numpy(broken_by) if same and known else None

    def write(self, number: int, broken_by: Tensor) -> None:
        """Keep what first broke the examples of a chunk, whole or not at all."""
        arrays = {
            "settings": np.array(self._digest),
            "indices": self.chunks[number].numpy(),
            "first_broken_by": broken_by.numpy(),
        }
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
    broken_by: Tensor,
    search_precision: Precision = "float32",
) -> Iterator[Outcome]:
    """What a run of :func:`attack_chunk` on all chunks says.

    Args:
        name: Of the outcome.
        attack: With the seed of the whole.
        mode: Goes into the settings.
        indices: Positions in the test set, ascending, (n,).
        broken_by: What :func:`attack_chunk` returned for all chunks, (n,).
        search_precision: That the attacks computed in.

    Yields:
        Which examples are correct under all four attacks, then, as ``NAME.ATTACK``, those that are correct after each
        of them and all before it.
    """
    settings = {**describe(attack), "mode": mode}
    standard, title = autoattack_names(settings["init_args"], search_precision)
    known: dict[str, Any] = {"norm": attack.norm, "gradient": "ste", "search_precision": search_precision}
    correct = broken_by == FIRST_BROKEN_BY.index(ROBUST)
    yield Outcome(name, title, settings, indices, correct, attack.eps, standard=standard, **known)
    for member, title in list(TITLES.items())[:-1] if mode == "chunked" else ():
        after = broken_by > FIRST_BROKEN_BY.index(member)
        member_settings = {**settings, "attacks": list(TITLES)[: list(TITLES).index(member) + 1]}
        part = Outcome(f"{name}.{member}", f"after {title}", member_settings, indices, after, attack.eps, **known)
        yield dataclasses.replace(part, role="part")
