"""Evaluation of an export: decisions of its program and of each engine on the same images, and robust accuracy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qra.deploy.engine import Engine
from qra.deploy.ops import Requantize
from qra.deploy.parity import Changes, CodeDifferences, Images, add_codes, changes, judge, total
from qra.deploy.program import Program
from qra.deploy.robustness import Replayed, Threat, Tried, decide, replay, together
from qra.deploy.twin import IntegerNetwork
from qra.evaluation.measured import Accuracy
from qra.evaluation.outcome import Outcome
from qra.evaluation.statistics import wilson_interval
from qra.quant.network import quant_layers

_PART = 50
"""Number of images whose codes are held at a time."""

Codes = Callable[[Tensor], Mapping[str, Tensor]]
"""Computes the integer codes of images by layer."""


@dataclass
class Run:
    """A model on an engine, and the findings about it so far.

    Args:
        name: Name in tables.
        file: Name of the model.
        engine: The engine.
        tapped: The engine on the same model with the codes of all layers as outputs; None if codes are not compared.
        attacked: Whether Square attacks it; a reference is only tested on the images from the program.
    """

    name: str
    file: str
    engine: Engine
    tapped: Engine | None = None
    attacked: bool = True
    layers: dict[str, CodeDifferences] = field(default_factory=dict)
    parts: list[Replayed] = field(default_factory=list)


class FakeQuantized:
    """The network that a program was made from, in float64: decisions, and codes by layer.

    Args:
        network: The network, in eval mode; a copy is used.
        program: The program made from it, which gives the step and zero point of each layer.
    """

    def __init__(self, network: nn.Module, program: Program) -> None:
        self.network = in_float64(network)
        modules = dict(self.network.named_modules())
        self._grids = {op.name: op for op in program.ops if isinstance(op, Requantize) and op.name in modules}
        self._modules = {name: modules[name] for name in self._grids}

    @torch.no_grad()
    def decide(self, x: Tensor) -> Tensor:
        """Return the predicted classes of images, (n,)."""
        return decide(self.network, x.double())

    @torch.no_grad()
    def codes(self, x: Tensor) -> dict[str, Tensor]:
        """Return integer codes by layer."""
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
            grid = self._grids[name]

            def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
                found[name] = (output / grid.scale).round().to(torch.int32) + grid.zero_point

            return hook

        hooks = [module.register_forward_hook(keep(name)) for name, module in self._modules.items()]
        try:
            self.network(x.double())
        finally:
            for hook in hooks:
                hook.remove()
        return found


def in_float64(network: nn.Module) -> nn.Module:
    """Return a copy of a quantized network in float64, with the quantized weights that it has in float32."""
    network = copy.deepcopy(network)
    for layer in quant_layers(network).values():
        if (quantizer := layer.weight_quantizer) is not None and (grid := quantizer.grid(layer.weight)) is not None:
            layer.weight = nn.Parameter(grid.dequantize(torch.float64))
            layer.weight_quantizer = None
    return network.double().eval()


class Evaluation:
    """Comparison of a program, its network and engines, chunk by chunk.

    Args:
        program: The differentiable twin, in eval mode.
        runs: Models on engines.
        what: The attacks.
        fake: The network that the program was made from; None if its checkpoint is not available.
    """

    def __init__(
        self, program: IntegerNetwork, runs: Sequence[Run], what: Threat, fake: FakeQuantized | None = None
    ) -> None:
        self.program, self.runs, self.what, self.fake = program, runs, what, fake
        self.fake_layers: dict[str, CodeDifferences] = {}
        self._fake: list[dict[Images, Changes]] = []
        self._tried: list[Tried] = []

    def add(self, number: int, tried: Tried) -> None:
        """Let the network and all engines classify the images of a chunk, and attack the engines."""
        self._tried.append(tried)
        if self.fake is not None:
            self._fake.append(
                {
                    kind: changes(self.fake.decide(images), tried.decisions[kind], tried.labels(kind))
                    for kind, images in tried.images.items()
                }
            )
        for run in self.runs:
            square = self.what.square.in_chunk(number) if run.attacked else None
            run.parts.append(replay(run.engine, self.program, tried, square))
        for x in torch.split(tried.batch.x, _PART):
            self._compare_codes(x)

    def _compare_codes(self, x: Tensor) -> None:
        with torch.no_grad():
            codes = self.program.codes(x)
        if self.fake is not None:
            add_codes(self.fake_layers, self.fake.codes(x), codes)
        for run in self.runs:
            if run.tapped is not None:
                found = run.tapped.outputs(x)
                add_codes(run.layers, codes, {name: found[f"codes:{name}"] for name in codes})

    @property
    def indices(self) -> Tensor:
        """Positions of all examples in the test set, in the order of the chunks, (n,)."""
        return torch.cat([tried.batch.indices for tried in self._tried])

    @property
    def _clean(self) -> Tensor:
        """Whether the program is correct on each clean image, bool (n,)."""
        return torch.cat([tried.decisions["clean"] == tried.batch.y for tried in self._tried])

    @property
    def _robust(self) -> Tensor:
        """Whether the program is correct on each example under all attacks with gradients, bool (n,)."""
        return torch.cat([tried.correct for tried in self._tried])

    def content(self) -> dict[str, Any]:
        """Return the findings, ready for JSON."""
        bounds = self.what.white_box.bounds
        fake = {
            "layers": _layers(self.fake_layers),
            "decisions": {kind: total(part[kind] for part in self._fake).summary() for kind in self._fake[0]},
        } if self._fake else None  # fmt: skip
        return {
            "threat_model": {key: getattr(bounds, key) for key in ("title", "norm", "eps", "pixels")},
            "white_box": {"title": self.what.white_box.attack.title, "attack": self.what.white_box.settings()},
            "full_length": {"title": self.what.full_length.title},
            "square": {"title": self.what.square.title, "queries": self.what.square.queries},
            "fake_quantized": fake,
            "program": {"clean": accuracy(self._clean), "robust": accuracy(self._robust)},
            "runs": [_found(run) for run in self.runs],
            "outcomes": {outcome.name: outcome.summary() for outcome in self.outcomes()},
        }

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the outcomes: clean, robust on the program, and the worst case over it and all attacked engines."""
        order = self.indices.argsort()
        indices = self.indices[order]
        deployed = [run for run in self.runs if run.attacked and not run.engine.engine_defaults]
        clean, robust = self._clean[order], self._robust[order]
        worst = robust.clone()
        for whole in (together(run.parts) for run in deployed):
            clean &= whole.clean[order]
            worst &= whole.correct[order]
        protocol = self.what.white_box
        name, fields = protocol.name, protocol.fields()
        yield Outcome("clean", "clean images", {}, indices, clean)
        yield Outcome(name, protocol.attack.title, protocol.settings(), indices, robust, **fields)
        about = {**fields, "standard": "", "gradient": "", "role": "worst"}
        members = (name, *(f"{run.name}: replayed, Square" for run in deployed))
        yield Outcome("deployed", "worst case as deployed", {}, indices, worst, members=members, **about)

    def decisions(self) -> dict[str, Tensor]:
        """Return every decision, by kind of images and executor, with positions in the test set and labels."""
        kinds: list[Images] = list(self._tried[0].images)
        found: dict[str, Tensor] = {}
        for kind in kinds:
            found[f"{kind}.indices"] = torch.cat([each.batch.indices[each.rows[kind]] for each in self._tried])
            found[f"{kind}.labels"] = torch.cat([each.labels(kind) for each in self._tried])
            found[f"{kind}.program"] = torch.cat([each.decisions[kind] for each in self._tried])
            for run in self.runs:
                found[f"{kind}.{run.name}"] = together(run.parts).decisions[kind]
        return found


def accuracy(correct: Tensor) -> dict[str, Any]:
    """Return an accuracy with its Wilson interval at 95 %, ready for JSON, from correctness, bool (n,)."""
    count, n = int(correct.sum()), len(correct)
    return {"accuracy": count / n, "interval95": list(wilson_interval(count, n)), "n": n}


def accuracy_of(found: Mapping[str, Any]) -> Accuracy:
    """Return an accuracy from the output of :func:`accuracy`."""
    return Accuracy(float(found["accuracy"]), int(found["n"]))


def _layers(found: Mapping[str, CodeDifferences]) -> dict[str, Any]:
    return {name: each.summary() for name, each in found.items()}


def _found(run: Run) -> dict[str, Any]:
    whole = together(run.parts)
    judgement = judge(whole.changes, whole.square)
    return {
        "name": run.name,
        "file": run.file,
        **judgement.summary(),
        "clean": accuracy(whole.clean),
        "robust": accuracy(whole.correct),
        "decisions": {kind: found.summary() for kind, found in whole.changes.items()},
        "square": None if whole.square is None else whole.square.summary(),
        "layers": _layers(run.layers) if run.tapped is not None else None,
        "engine": run.engine.record(),
    }
