"""``qra fit | validate | test | predict`` by LightningCLI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, LearningRateMonitor, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from qra import checkpoint
from qra.callbacks import (
    AdversarialExamples,
    CheckpointFiles,
    PipelineCallback,
    QuantizationMonitor,
    QuantizationSummary,
    ResultWriter,
    RobustnessEvaluation,
    RunLog,
    TrainingDiagnostics,
    TrainingRecord,
    order,
)
from qra.callbacks.bars import progress_display
from qra.callbacks.best import BestFigures, ending
from qra.callbacks.checkpoint_files import RunCheckpoint
from qra.callbacks.measurement import check_names
from qra.cli.linking import link_normalization, link_to_data
from qra.cli.parser import OneLineParser, RunConfigCallback, read_present_names
from qra.data import ImageDataModule
from qra.dryrun import dry_run
from qra.front.run_config import check_dry_run, check_place, check_trainer, check_weights, run_directory, without_notes
from qra.front.traces import traceback_kept
from qra.modules import ImageClassifier, averaging
from qra.plan import make_plan
from qra.probe import Probe
from qra.resume import LARGEST_STEP, check_resumable, resume_settings
from qra.running import callbacks_of
from qra.runs import completion
from qra.runs.command import RunningCommand
from qra.runs.ranks import is_first_node
from qra.trainer import PipelineTrainer

TRAINER_DEFAULTS: dict[str, Any] = {
    "inference_mode": False,  # attacks need gradients
    "use_distributed_sampler": False,  # the data modules shard by themselves, without duplicates
    "num_sanity_val_steps": 0,  # a validation is an attack
    "log_every_n_steps": 20,
    "enable_model_summary": False,
}

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "64-true")


class QraCLI(LightningCLI):
    """Lightning's command line with the project's defaults, run directories and one-line errors."""

    def __init__(self, args: list[str], command: RunningCommand) -> None:
        self.command, self.words = command, args
        super().__init__(
            ImageClassifier,
            ImageDataModule,
            trainer_class=PipelineTrainer,
            save_config_callback=RunConfigCallback,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=args,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the subcommands on the command line, as the parser of each one is slow to make; else all."""
        known = super().subcommands()
        return {name: skipped for name, skipped in known.items() if name in self.words} or known

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        self.parser_class = OneLineParser
        read_present_names()
        return super().init_parser(**kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run",
            type=str | None,
            default=None,
            help="Directory of the run, where everything is written; runs/NAME for a config NAME.yaml if not given.",
        )
        parser.add_argument(
            "--weights_key",
            type=str | None,
            default=None,
            help="Where in the file of --ckpt_path or init_from the weights are, if several places fit.",
        )
        parser.add_argument(
            "--untrained",
            type=bool,
            default=False,
            help="Whether to test a network with random weights, without a checkpoint.",
        )
        parser.add_argument(
            "--dry_run",
            type=bool,
            default=False,
            help="Whether to say what would be done and how long that takes, and write nothing; of fit and test.",
        )
        parser.add_lightning_class_args(RobustnessEvaluation, "evaluation")
        parser.add_lightning_class_args(AdversarialExamples, "examples")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.set_defaults({"weights_only": True})  # checkpoints are untrusted files
        if subcommand == "test":
            parser.set_defaults({"verbose": False})  # ResultWriter prints the table
        assert isinstance(parser, OneLineParser)
        parser.take_whole_objects()
        return parser

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError:
            given = self.config[self.subcommand].seed_everything
            raise ValueError(f"seed_everything is {given}: it must be a whole number from 0 to 2**32 - 1") from None

    def _parse_ckpt_path(self) -> None:
        """Do nothing, so that config and command line take precedence over what a checkpoint stores."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        self.directory = run_directory(config)
        check_place(self.directory)
        check_trainer(config, str(self.subcommand))
        if config.ckpt_path in ("last", "best"):
            config.ckpt_path = str(self.directory / f"{config.ckpt_path}.ckpt")
            if not Path(config.ckpt_path).exists():
                raise ValueError(f"{config.ckpt_path}: there is no such checkpoint; qra fit writes it, after an epoch")
        if self.subcommand != "fit":
            check_weights(config, str(self.subcommand), self.words)
        if config.dry_run:
            check_dry_run(config, str(self.subcommand))
        else:
            self.command.work_in(self.directory, _is_first_process())
        if self.subcommand == "fit" and config.ckpt_path is None and _is_first_process():
            self._refuse_another_run()

    def _refuse_another_run(self) -> None:
        """Refuse to start a training where it would overwrite another one's checkpoints."""
        goes_on, done = (self.directory / "last.ckpt").exists(), completion.read(self.directory)
        if goes_on or ((self.directory / "best.ckpt").exists() and done is not None and done.finished):
            way = "resume it by --ckpt_path last, or " if goes_on else ""
            raise ValueError(f"{self.directory} already holds a run: {way}write to another directory by --run")

    def after_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        self.content = {} if config.ckpt_path is None else checkpoint.read(config.ckpt_path)
        averaging.check(self.trainer)
        self._fit_network(config)
        if self.trainer.precision not in PRECISIONS:
            raise ValueError(
                f"trainer.precision is {self.trainer.precision}: networks are evaluated in float32, so their weights "
                f"must be: choose one of {', '.join(PRECISIONS)}"
            )
        self.model.weights_key = config.weights_key
        if config.ckpt_path is not None:
            self._load(config.ckpt_path)
        if _is_first_process():  # check now, as Lightning writes to the run directory before it would find errors
            self._check(config)
            if self.subcommand == "fit":
                self._check_fit(config)

    def _fit_network(self, config: Namespace) -> None:
        """Fit the network of the config, if there is one, to the data; otherwise the checkpoint describes it."""
        if (network := config.model.init_args.get("network")) is None:
            return
        if not isinstance(network, Namespace):
            raise ValueError(
                f"model.network is {network!r}, but {config.model.class_path} gives it no type: annotate it there "
                "as torch.nn.Module"
            )
        self._link(network, self.content)
        self.model.network.description = without_notes(network.as_dict())

    def _load(self, path: str) -> None:
        """Load the checkpoint, so that the dry run is of the network that is measured."""
        self.model.adopt(self.content, path)
        self.model.load_state_dict(self.content["state_dict"])
        steps = self.content.get("global_step")
        self.model.trained_steps = steps if type(steps) is int and 0 <= steps < LARGEST_STEP else 0

    def _check(self, config: Namespace) -> None:
        """Reject what does not fit together, in any command."""
        self.datamodule.prepare_data()
        self.datamodule.setup(self.subcommand)
        checkpoint.check_classes(self.content, self.datamodule.class_names, config.ckpt_path)
        if line := checkpoint.other_class_names(self.content, self.datamodule.class_names):
            print(f"{config.ckpt_path}: {line}")
        self._dry_run()
        check_names(callbacks_of(self.trainer, Callback), str(self.subcommand))
        for callback in callbacks_of(self.trainer, PipelineCallback):
            if self.subcommand in callback.stages:
                callback.check(self.model, self.datamodule, self.trainer.world_size)

    def _check_fit(self, config: Namespace) -> None:
        """Reject a training that could not run, start or resume."""
        self.model.check_fit()
        self.model.check_data(self.datamodule)
        check_monitored(self.trainer, self.model)
        self.record.settings = settings = resume_settings(without_notes(config.as_dict()), self.datamodule)
        if config.ckpt_path is None:
            self.model.initialize()
            self._compare_classes(self.model.init_from)
        else:
            check_resumable(self.content, config.ckpt_path, self.trainer, self.model, settings)

    def _compare_classes(self, start: str | None) -> None:
        """Print a line if the checkpoint that a training starts from numbers the data's classes differently."""
        line = start and checkpoint.moved_class(checkpoint.read(start), self.datamodule.class_names)
        if line:
            print(f"{start}: {line}: training has to learn the classes again")

    def _link(self, network: Namespace, content: Mapping[str, Any]) -> None:
        """Rebuild the network for the data's classes, channels and normalization, or for the checkpoint's."""
        data, changed = self.datamodule, []
        if self.subcommand == "fit":
            data.prepare_data()
            changed.append(link_to_data(network, data.num_classes, data.image_shape[0]))
        if content or self.subcommand == "fit":
            found = (lambda: checkpoint.normalization(content)) if content else data.normalization
            changed.append(link_normalization(network, found))
        if any(changed):
            self._set_seed()
            self.instantiate_classes()
            self.datamodule = data

    def _dry_run(self) -> None:
        data = self.datamodule
        x = data.batch("test", torch.arange(min(2, data.size("test")))).x
        outputs = dry_run(self.model.network, x, data.num_classes, self.subcommand == "fit")
        vars(self.model.network)["outputs"] = outputs
        if outputs > data.num_classes:
            first = data.class_names[0]
            print(f"the network has {outputs} classes, the data {data.num_classes}: its first is {first!r} here")

    def _run_subcommand(self, subcommand: str) -> None:
        if self.config[subcommand].dry_run:
            probe = Probe()
            plan = make_plan(subcommand, self.trainer, self.model, self.datamodule, self.content, probe)
            plan.print(subcommand, self.directory, probe.seconds)
            return
        with traceback_kept(self.directory, lambda: self.command.begun and _is_first_process()):
            super()._run_subcommand(subcommand)

    def after_fit(self) -> None:
        """Print how the training ended and what to do next."""
        if _is_first_process():
            print("\n".join(ending(self.trainer, self.directory)))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        kwargs["default_root_dir"] = self.directory
        if config["logger"] in (None, True):
            logger = TensorBoardLogger(self.directory, name="tensorboard", version="", default_hp_metric=False)
            kwargs["logger"] = logger
        kwargs["enable_checkpointing"] = self.subcommand == "fit"
        kwargs["plugins"] = _with_checkpoint_files(config["plugins"], resume=self.subcommand == "fit")
        self.record = TrainingRecord(self.command)
        own = self._own_callbacks(config)
        kwargs["callbacks"] = [self.record, *own, *self._standing_callbacks(config, own)]
        trainer = super().instantiate_trainer(**kwargs)
        self.command.trainer = trainer
        trainer.callbacks.sort(key=order)  # type: ignore[attr-defined]
        return trainer

    def _own_callbacks(self, trainer: Mapping[str, Any]) -> list[Callback]:
        """Return the config's callbacks that this command can use; a tested run's config also has those of its fit."""
        useless = (
            *((Checkpoint,) if self.subcommand != "fit" else ()),
            *((ProgressBar,) if trainer["enable_progress_bar"] is False else ()),
        )
        return [callback for callback in trainer["callbacks"] or () if not isinstance(callback, useless)]

    def _standing_callbacks(self, trainer: Mapping[str, Any], own: Sequence[Callback]) -> list[Callback]:
        callbacks: list[Callback] = [
            QuantizationSummary(),
            QuantizationMonitor(),
            ResultWriter(),
            RunLog(without_notes(self.config[self.subcommand].as_dict())),
            TrainingDiagnostics(),
        ]
        if trainer["enable_progress_bar"] is not False and not any(isinstance(each, ProgressBar) for each in own):
            callbacks.append(progress_display())
        if self.subcommand != "fit":
            return callbacks
        best = RunCheckpoint(
            self.directory,
            "best",
            monitor=self.model.selection_metric,
            mode="max",
            save_weights_only=True,
            save_on_train_epoch_end=False,  # but right after validation, before anything changes the validated weights
            enable_version_counter=False,
        )
        last = RunCheckpoint(self.directory, "last", save_on_train_epoch_end=True, enable_version_counter=False)
        if trainer["logger"] is not False:
            callbacks.append(LearningRateMonitor("step"))
        return [*callbacks, BestFigures(), best, last]


def check_monitored(trainer: Trainer, model: ImageClassifier) -> None:
    """Reject a callback that waits for a metric of the validation that it does not have, where all are known."""
    callbacks = callbacks_of(trainer, Callback)
    if any(type(each).__module__.partition(".")[0] not in ("qra", "lightning") for each in (model, *callbacks)):
        return  # code of one's own may log anything
    known = [f"val/{name}" for name in model.val_metrics]
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if isinstance(callback, Checkpoint) and monitor in ("epoch", "step"):
            continue  # which Lightning counts, to keep the latest few
        if monitor is not None and monitor not in known and not monitor.startswith("train/"):
            raise ValueError(f"{type(callback).__name__} monitors {monitor}: choose one of {', '.join(known)}")


def _with_checkpoint_files(plugins: Any, resume: bool) -> list[Any]:
    """Return the trainer's plugins, with one that reads and writes checkpoints unless there is one already."""
    given = plugins if isinstance(plugins, list) else [] if plugins is None else [plugins]
    return given if any(isinstance(plugin, CheckpointIO) for plugin in given) else [*given, CheckpointFiles(resume)]


def _is_first_process() -> bool:
    """Return whether this is rank 0 of all machines; before there is a trainer, the environment tells the machine."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0 and is_first_node()
