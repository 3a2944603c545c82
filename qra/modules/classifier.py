"""Base class of all training methods: network, optimizer, metrics and validation under attack."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from qra import checkpoint
from qra.attacks import PGD, Attack
from qra.data import ImageDataModule, data_of
from qra.describe import describe
from qra.losses import prediction
from qra.modules import averaging
from qra.modules.aims import check_attack
from qra.modules.means import EpochMeans
from qra.modules.optimizers import fuse
from qra.modules.replays import TrainingReplays
from qra.modules.resumption import prepare_resumption
from qra.precision import float32
from qra.quant import (
    FrozenNetwork,
    QuantScheme,
    calibrate,
    convert,
    freeze,
    quantize_after_training,
    reestimate_batch_norm,
    requantize,
)
from qra.quant.learned import LearnedValues
from qra.quant.network import activation_quantizers, quantizer_parameters
from qra.running import LOSS_STEP, callbacks_of, is_logged
from qra.schedules import Schedule
from qra.types import Batch


def _default_optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)


def _check_batch(batch: Any) -> None:
    """Refuse what loaders of one's own may give.

    Raises:
        ValueError: If it is no :class:`qra.types.Batch` of pixels.
    """
    x = getattr(batch, "x", None)
    if x is None or not x.is_floating_point():
        kind = f"a {type(batch).__name__}" if x is None else f"of {x.dtype}"
        raise ValueError(
            f"a batch of the data is {kind}: give the trainer a data module of qra.data, or loaders whose batches are "
            "qra.types.Batch(float pixels in [0, 1], labels, positions in the data set)"
        )


class Upkeep(Callback):
    """Lightning hooks that a module runs on its own behalf, as a callback.

    Args:
        hooks: Functions, keyed by the names of the Lightning hooks they implement.
    """

    def __init__(self, **hooks: Callable[..., Any]) -> None:
        vars(self).update(hooks)


class ImageClassifier(LightningModule):
    """Base class of the training methods; a subclass implements :meth:`training_loss`.

    Args:
        network: Network that maps pixels in [0, 1], (N, C, H, W), to logits. If there is a scheme, it is quantized in
            place.
        scheme: Scheme for quantization-aware training; ``null`` trains a float network.
        init_from: Checkpoint whose network weights a new run starts from. It may hold a float network or one quantized
            to other bit widths; BatchNorm statistics are then re-estimated on the calibration images.
        optimizer: Function or class that makes the optimizer from the network's parameters.
        schedule: Learning rate schedule over the whole run, as a multiplier of the optimizer's learning rate.
        val_attack: Attack used in the validation of each epoch; with ``null`` only clean accuracy is measured.
        channels_last: Whether to use the channels-last memory format, in which convolutions run faster.
        compile: Whether to compile the network and its attack-time copy with ``torch.compile``.

    Attributes:
        weights: Path of the checkpoint that holds the current weights once a fit has trained them; None before.
    """

    selection_metric: ClassVar[str] = "val/clean_acc"
    """Validation metric that selects the best checkpoint; higher is better."""
    is_adversarial: ClassVar[bool] = False
    """Whether the method trains on adversarial examples; studies compare such networks with one another."""

    def __init__(
        self,
        network: nn.Module,
        scheme: QuantScheme | None = None,
        init_from: str | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = _default_optimizer,
        schedule: Schedule | None = None,
        val_attack: Attack | None = PGD(early_stop=True),
        channels_last: bool = True,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if optimizer is None:
            raise ValueError("model.optimizer is null: give a config (qra configs optim) or an optimizer class")
        if val_attack is None and self.selection_metric == "val/robust_acc":
            raise ValueError(
                "val_attack is none, but the best checkpoint is chosen by robust accuracy in validation: give an attack"
            )
        if val_attack is not None:
            check_attack(val_attack, on_logits=False, use="validation")
        self.network = network
        self.scheme = scheme
        if scheme is not None:
            scheme.check_stored()
            convert(network, scheme)
        self.init_from = init_from
        self.trained_steps = 0  # training steps of the checkpoint being tested
        self.weights_key: str | None = None  # key of the weights in a foreign file, if several would fit
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.val_attack = val_attack
        self.channels_last = channels_last
        self.compile_network = compile
        self.calibration: dict[str, Any] | None = None
        self.weights: str | None = None
        self._initialized = self._weights_changed = False
        self._replays = TrainingReplays("training")
        self._learned: LearnedValues | None = None
        self._means = EpochMeans()
        self._frozen: list[FrozenNetwork] = []  # a list keeps it from being a submodule, in checkpoints and optimizers
        kinds = ("clean",) if val_attack is None else ("clean", "robust")
        self.val_metrics = nn.ModuleDict({f"{kind}_{name}": MeanMetric() for kind in kinds for name in ("acc", "loss")})

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels in [0, 1], (N, C, H, W), to logits."""
        alone = self._trainer is None or self.trainer.world_size == 1  # CUDA graph replays would bypass a DDP wrapper
        replayed = self._replays(self.network, x) if alone else None
        logits = self.network(x) if replayed is None else replayed
        if not isinstance(logits, Tensor):
            mode = "training" if self.network.training else "eval"
            raise ValueError(
                f"the network returns a {type(logits).__name__} in {mode} mode: it must return only logits"
            )
        return logits

    # ----- training -----

    def training_loss(self, batch: Batch) -> Tensor:
        """Compute the loss of one batch; this defines the training method.

        Args:
            batch: Float images in [0, 1], labels and dataset indices.

        Returns:
            The scalar loss to minimize.
        """
        raise NotImplementedError

    def initialize(self) -> None:
        """Load the weights of ``init_from``; later calls do nothing.

        Raises:
            ValueError: If the checkpoint cannot be read or belongs to a different network.
        """
        if self.init_from is not None and not self._initialized:
            self._weights_changed = checkpoint.load_weights(self.network, self.init_from, self.scheme, self.weights_key)
        self._initialized = True

    def check_fit(self) -> None:
        """Check that everything needed for training is present; called once callbacks are set up.

        Raises:
            ValueError: If something is missing; the message says what.
        """

    def check_data(self, data: ImageDataModule) -> None:
        """Check that the quantizers can be trained, and initialized from the data module's calibration images.

        Args:
            data: Data module that has been set up.

        Raises:
            ValueError: If a scheme is set and there are fewer calibration images than requested, or it has learned
                weight quantizers that no gradient would reach.
        """
        if self.scheme is not None:
            self.scheme.weight.check_trained()
            data.check_calibration()

    def setup(self, stage: str) -> None:
        resumed = self._trainer is not None and self._trainer.ckpt_path is not None
        if stage == "fit":
            self._means.reset()  # an earlier training may have been interrupted
            self.check_fit()
            if not resumed:
                self.initialize()
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)
        if self.compile_network:
            self.network.compile()

    def configure_callbacks(self) -> list[Callback]:
        """Return the hooks of this class as a callback, so that subclasses can override Lightning's without super()."""
        return [
            Upkeep(
                on_fit_start=self._begin_fit,
                on_train_epoch_start=self._begin_epoch,
                on_train_batch_end=self._end_batch,
                on_train_epoch_end=self._log_means,
                on_validation_start=self._begin_validation,
                on_validation_epoch_start=self._refresh,
                on_validation_epoch_end=self._weights_swapped,
                teardown=self._replays_cleared,
                state_dict=self._unfinished_means,
                load_state_dict=self._means.reset,
            )
        ]

    def _begin_fit(self, *_: Any) -> None:
        self.weights = None
        self.network.train()  # Lightning does not switch a network that was loaded in eval mode
        if self.scheme is None or self.trainer.ckpt_path is not None:
            return
        images = [batch.x for batch in self.calibration_batches()]
        with float32(self.device), torch.compiler.set_stance("force_eager"):  # compilation is for training
            calibrate(self.network, images)
            self._synchronize_buffers()
            if self._weights_changed:
                reestimate_batch_norm(self.network, images)

    def calibration_batches(self) -> list[Batch]:
        """Return the data module's calibration batches on the device, with float images in [0, 1]."""
        return list(data_of(self.trainer).calibration_batches(self.device))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        _check_batch(batch)
        if self.channels_last:
            batch = batch._replace(x=batch.x.contiguous(memory_format=torch.channels_last))
        loss = self.training_loss(batch)
        if not isinstance(loss, Tensor) or loss.ndim > 0:
            given = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise ValueError(f"{type(self).__name__}.training_loss returned {given}: it must return a scalar tensor")
        loss = loss + self._learned_values().decay()
        self._means.add("loss", loss, len(batch.y))
        if self._trainer is not None and is_logged(self.trainer, self.trainer.global_step + 1):
            # no prog_bar: with it Lightning would synchronize with the device after every following step
            self.log(LOSS_STEP, loss, on_step=True, on_epoch=False)
        return loss

    def _learned_values(self) -> LearnedValues:
        if self._learned is None:
            self._learned = LearnedValues(self.network)
        return self._learned

    def _begin_epoch(self, *_: Any) -> None:
        self._means.reset()
        self._learned = None
        self._replays.look_again()

    def _end_batch(self, trainer: Trainer, *_: Any) -> None:
        self._learned_values().keep_positive()
        stops = trainer.should_stop and trainer.fit_loop._can_stop_early
        if trainer.is_last_batch or trainer.global_step == trainer.max_steps or stops:
            self._log_means()
        if trainer.is_last_batch:
            self._means.reset()

    def _log_means(self, *_: Any) -> None:
        """Log the means of the epoch unless that is done; at its end, those of one that a callback cut short."""
        for name, mean in self._means.news().items():
            self.log(f"train/{name}", mean, on_step=False, on_epoch=True, sync_dist=True)

    def _unfinished_means(self) -> dict[str, tuple[float, int]]:
        """Return what checkpoints within an epoch keep of its means; the sums are means over the ranks."""
        reduce = self.trainer.strategy.reduce
        totals = self._means.totals().items()
        return {name: (float(reduce(total, reduce_op="mean")), count) for name, (total, count) in totals}

    def _replays_cleared(self, *_: Any, **__: Any) -> None:
        self._replays.clear()  # the network is moved off the device

    def log_accuracy(self, name: str, logits: Tensor, y: Tensor) -> None:
        """Log the accuracy of the training logits as ``train/<name>``, averaged over the epoch."""
        self._means.add_accuracy(name, logits, y)

    def log_mean(self, name: str, value: Tensor, count: int) -> None:
        """Log a mean over ``count`` examples of a training batch as ``train/<name>``, averaged over the epoch."""
        self._means.add(name, value, count)

    def attack_network(self, refresh: bool = True) -> FrozenNetwork:
        """Return the attack-time copy of the network, updated to the current weights unless ``refresh`` is false."""
        stale = self._frozen and next(self._frozen[0].parameters()).device != self.device
        if not self._frozen or stale:
            self._frozen[:] = [freeze(self.network)]
            if self.compile_network:
                self._frozen[0].network.compile()
        return self._frozen[0].refresh() if refresh else self._frozen[0]

    def maximize(
        self, attack: Attack, batch: Batch, target: Tensor | None = None, network: nn.Module | None = None
    ) -> Tensor:
        """Return adversarial examples of a training batch for the current network.

        Args:
            attack: Attack, run in eval mode on the attack-time copy, so that it changes no statistics, modes or
                gradients of the trained network.
            batch: Images and their dataset indices, which determine the start noise.
            target: What the attack's loss compares logits with; the labels by default.
            network: Network to attack instead of the attack-time copy with the current weights.
        """
        y = batch.y if target is None else target
        attacked = self.attack_network() if network is None else network
        return attack(attacked, batch.x, y, index=batch.indices, epoch=self.current_epoch)

    def quantize_after_training(
        self, scheme: QuantScheme, images: list[Tensor], bias_corrected: bool, record: dict[str, Any]
    ) -> None:
        """Calibrate and permanently quantize the float network, in place.

        Args:
            scheme: Quantizers and bit widths; see :func:`qra.quant.quantize_after_training`.
            images: Batches of calibration images, float in [0, 1].
            bias_corrected: Whether to correct the mean and spread of each channel of the quantized weights.
            record: Settings that the calibration depends on, to be stored in checkpoints.
        """
        with float32(self.device):
            self.scheme = quantize_after_training(self.network, scheme, images, bias_corrected)
        self.calibration = record
        self._frozen.clear()

    def requantize(self, scheme: QuantScheme, images: list[Tensor]) -> None:
        """Change the bit widths of the quantized network without training, in place.

        Args:
            scheme: Quantizers and bit widths; see :func:`qra.quant.requantize`.
            images: Batches for re-estimating BatchNorm statistics, in [0, 1], (N, C, H, W).
        """
        requantize(self.network, scheme)
        with float32(self.device):
            reestimate_batch_norm(self.network, images)
        self.scheme = scheme
        self._frozen.clear()

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameter_groups())
        fuse(optimizer, self.device)
        if self.schedule is None:
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ValueError(
                "model.schedule spans the training, but neither trainer.max_epochs nor trainer.max_steps says how "
                "long it is: give one of them, or --model.schedule null"
            )
        scheduler = self.schedule(optimizer, int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def parameter_groups(self) -> Any:
        """Return the network's parameters, with those of quantizers in a second group without weight decay."""
        learned = quantizer_parameters(self.network)
        if not learned:
            return self.network.parameters()
        others = set(self.network.parameters()).difference(learned)
        weights = [parameter for parameter in self.network.parameters() if parameter in others]
        return [{"params": weights}, {"params": learned, "weight_decay": 0.0}]

    # ----- validation and testing, always in float32 -----

    def _begin_validation(self, *_: Any) -> None:
        for metric in self.val_metrics.values():
            cast(MeanMetric, metric).reset()  # one that was reset in inference mode takes in nothing outside of it
        self._synchronize_buffers()
        averaging.begin(self.trainer, self)

    def _refresh(self, *_: Any) -> None:
        self._synchronize_buffers()  # callbacks may have swapped the weights
        self._weights_swapped()
        self.attack_network()

    def _synchronize_buffers(self) -> None:
        if self.trainer.world_size > 1:
            for buffer in self.network.buffers():  # without SyncBatchNorm, statistics differ between ranks
                torch.distributed.broadcast(buffer, src=0)
            self._weights_swapped()

    def _weights_swapped(self, *_: Any) -> None:
        for quantizer in activation_quantizers(self.network).values():
            quantizer.state_changed()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        _check_batch(batch)
        with float32(self.device):
            self._evaluate("clean", self._judge(batch.x), batch.y)
            if self.val_attack is not None:
                x_adv = self.val_attack(self.attack_network(refresh=False), batch.x, batch.y, index=batch.indices)
                self._evaluate("robust", self._judge(x_adv), batch.y)

    def _judge(self, x: Tensor) -> Tensor:
        """Compute logits in float32; on a GPU uncompiled, as compiling again for float32 would gain no speed."""
        run = self.network._call_impl if x.device.type == "cuda" else self.network
        return cast(Callable[[Tensor], Tensor], run)(x)

    def _evaluate(self, kind: str, logits: Tensor, y: Tensor) -> None:
        correct, losses = (prediction(logits) == y).float(), F.cross_entropy(logits, y, reduction="none")
        for name, values in ((f"{kind}_acc", correct), (f"{kind}_loss", losses)):
            metric = cast(MeanMetric, self.val_metrics[name])
            metric.update(values)
            self.log(f"val/{name}", metric, prog_bar=values is correct, on_epoch=True)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the logits of the clean images, (N, classes), in float32."""
        _check_batch(batch)
        with float32(self.device):
            return self.forward(batch.x)

    predict_step = test_step

    # ----- checkpoints -----

    def on_save_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        checkpoint_[checkpoint.KEY] = {
            "network": describe(self.network),
            "scheme": describe(self.scheme),
            "calibration": self.calibration,
            "classes": self._class_names(),
        }
        checkpoint_["rng_state"] = torch.get_rng_state()
        if "optimizer_states" not in checkpoint_ and self.weights is None and self._trainer is not None:
            averaging.store(self._trainer, self, checkpoint_)

    def _class_names(self) -> list[str]:
        data = getattr(self._trainer, "datamodule", None)
        return list(data.class_names) if isinstance(data, ImageDataModule) else []

    def adopt(self, checkpoint_: dict[str, Any], path: str) -> None:
        """Prepare to load a checkpoint; one that was quantized after training brings its own scheme.

        Raises:
            ValueError: If the checkpoint has a different scheme, or its state does not fit the network.
        """
        try:
            scheme = checkpoint.rebuild_scheme(checkpoint_) if self.scheme is None else None
        except ValueError as reason:
            raise ValueError(f"{path}: {reason}") from None
        if scheme is not None and scheme.is_fixed:
            convert(self.network, scheme)
            self.scheme = scheme
            self.calibration = checkpoint_[checkpoint.KEY].get("calibration")
            self._frozen.clear()
        checkpoint.check_scheme(checkpoint_, self.scheme, path)
        state = checkpoint.state_of(self.network, checkpoint_, path, self.weights_key)
        if lacking := [key for key in self.network.state_dict() if key not in state]:
            raise ValueError(f"{path}: is a checkpoint of a different network: it has no {lacking[0]}")
        stored = checkpoint_.get("state_dict") or {}
        others = {name: stored.get(name, value) for name, value in self.state_dict().items()}
        whole = {**others, **{f"{checkpoint.OWN}{name}": value for name, value in state.items()}}
        checkpoint_["state_dict"] = checkpoint.with_versions(self, whole)

    def on_load_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        self.adopt(checkpoint_, "the checkpoint")
        if self._trainer is not None and self.trainer.state.fn == "fit":
            prepare_resumption(checkpoint_, callbacks_of(self.trainer, Callback))
