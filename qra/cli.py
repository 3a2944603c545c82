"""The command line: ``qra fit | validate | test | predict`` by LightningCLI, and small tools beside them."""

from __future__ import annotations

import copy
import logging
import os
import re
import sys
import warnings
from argparse import Action
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of jsonargparse's names inside Lightning

import torch
import yaml
from jsonargparse import DefaultHelpFormatter, Namespace, get_loader, set_loader
from jsonargparse.typing import register_type
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from qra import checkpoint, tools
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
from qra.callbacks.ending import BestFigures, ending
from qra.callbacks.measurement import check_names
from qra.data import ImageDataModule
from qra.dryrun import dry_run, link_normalization, link_to_data
from qra.errors import fail
from qra.front.answer import answer
from qra.front.arguments import prepared
from qra.front.run_config import check_dry_run, check_place, check_weights, with_absolute_paths
from qra.front.traces import traceback_kept
from qra.front.usage import explained
from qra.modules import ImageClassifier, RobustTransfer
from qra.plan import Plan, make_plan
from qra.probe import Probe
from qra.progress import progress_display
from qra.quant import freeze
from qra.renamed import present
from qra.resume import check_resumable, resume_settings
from qra.running import callbacks_of
from qra.runs.command import RunningCommand
from qra.runs.ranks import is_first_node
from qra.trainer import PipelineTrainer
from qra.types import Pixels, format_pixels
from qra.writing import write_bytes

register_type(Pixels, serializer=format_pixels, deserializer=Pixels)

TRAINER_DEFAULTS: dict[str, Any] = {
    "inference_mode": False,  # attacks need gradients
    "use_distributed_sampler": False,  # the data modules shard by themselves, without duplicates
    "num_sanity_val_steps": 0,  # a validation is an attack
    "log_every_n_steps": 20,
    "enable_model_summary": False,
}

_load_yaml = get_loader("yaml")

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "64-true")


class RunConfigCallback(SaveConfigCallback):
    """Save the whole config: ``config.yaml`` by fit, ``<subcommand>/config.yaml`` by the others."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        directory = Path(trainer.default_root_dir)
        target = directory / ("" if stage == "fit" else TrainerFn(stage).value) / "config.yaml"
        target.parent.mkdir(parents=True, exist_ok=True)
        config = self.config.clone()
        config.run = None  # a run directory may be moved
        if stage == "fit":
            config.ckpt_path = None  # another run of this config is no resumption
        write_bytes(target, self.parser.dump(with_absolute_paths(config), skip_none=False).encode())


class ShortHelp(DefaultHelpFormatter):
    """Help on a class of one's own, without the hundreds of classes that an argument could be."""

    def _expand_help(self, action: Action) -> str:
        return re.sub(r", known subclasses: [^)]*", "", super()._expand_help(action))


class OneLineParser(LightningArgumentParser):
    """A parser that knows whole names only and raises what is wrong."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, "formatter_class": ShortHelp, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ParsingError(message) from ex


def _present_names(text: str) -> Any:
    """What a config, or the value of an option, says, in the names of this version."""
    return present(_load_yaml(text))


class ParsingError(ValueError):
    """A command line or a config that is not understood."""


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
        """Those that the command line names, since a parser of every option takes a while to make; else all."""
        known = super().subcommands()
        return {name: skipped for name, skipped in known.items() if name in self.words} or known

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        self.parser_class = OneLineParser
        set_loader("yaml", _present_names, (yaml.YAMLError,))
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
            help="Where in the file of --ckpt_path or init_from the weights lie, if several places fit.",
        )
        parser.add_argument(
            "--untrained",
            type=bool,
            default=False,
            help="Whether a network may be tested that no checkpoint gives weights to.",
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
        return parser

    def _parse_ckpt_path(self) -> None:
        """Let config and command line win over what a checkpoint stores."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        self.directory = run_directory(config)
        check_place(self.directory)
        if config.ckpt_path in ("last", "best"):
            config.ckpt_path = str(self.directory / f"{config.ckpt_path}.ckpt")
            if not Path(config.ckpt_path).exists():
                raise ValueError(f"{config.ckpt_path}: there is no such checkpoint; qra fit writes it, after an epoch")
        if self.subcommand != "fit":
            check_weights(config, str(self.subcommand))
        if config.dry_run:
            check_dry_run(config, str(self.subcommand))
        else:
            self.command.work_in(self.directory, _is_first_process())
        taken = self.directory / "last.ckpt"
        if self.subcommand == "fit" and config.ckpt_path is None and _is_first_process() and taken.exists():
            raise ValueError(
                f"{self.directory} holds a run already: go on with it by --ckpt_path last, or write to another "
                "directory by --run"
            )

    def after_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        self.content = content = {} if config.ckpt_path is None else checkpoint.read(config.ckpt_path)
        if "network" in config.model.init_args:  # else the checkpoint describes it
            self._link(config.model.init_args.network, content)
            self.model.network.description = _plain(config.model.init_args.network.as_dict())
        if self.trainer.precision not in PRECISIONS:
            raise ValueError(
                f"trainer.precision is {self.trainer.precision}: networks are judged in float32, so their weights must "
                f"be: choose one of {', '.join(PRECISIONS)}"
            )
        self.model.weights_key = config.weights_key
        if config.ckpt_path is not None:
            self.model.adopt(content, config.ckpt_path)
            self.model.trained_steps = steps if type(steps := content.get("global_step")) is int else 0
        if _is_first_process():  # Lightning would write into the run directory before it finds what is wrong here
            self.datamodule.prepare_data()
            self.datamodule.setup(self.subcommand)
            checkpoint.check_classes(content, self.datamodule.class_names, config.ckpt_path)
            self._dry_run()
            check_names(callbacks_of(self.trainer, Callback), str(self.subcommand))
            for callback in callbacks_of(self.trainer, PipelineCallback):
                if self.subcommand in callback.stages:
                    callback.check(self.model, self.datamodule, self.trainer.world_size)
            if self.subcommand == "fit":
                self.model.check_fit()
                self.record.settings = settings = resume_settings(_plain(config.as_dict()), self.datamodule)
                if config.ckpt_path is None:
                    self.model.initialize()
                else:
                    check_resumable(content, config.ckpt_path, self.trainer, self.model, settings)

    def _link(self, network: Any, content: Mapping[str, Any]) -> None:
        """Make the network again for classes, channels and brightness of the data, or as the checkpoint normalizes."""
        data, changed = self.datamodule, []
        if not isinstance(network, Namespace):
            return
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
            print(
                f"the network tells {outputs} classes apart, the data {data.num_classes}: its first is {first!r} here"
            )

    def _run_subcommand(self, subcommand: str) -> None:
        if self.config[subcommand].dry_run:
            probe = Probe()
            plan = make_plan(subcommand, self.trainer, self.model, self.datamodule, self.content, probe)
            plan.print(subcommand, self.directory, probe.seconds)
            return
        with traceback_kept(self.directory, lambda: self.command.begun and _is_first_process()):
            super()._run_subcommand(subcommand)

    def after_fit(self) -> None:
        """Say how it ended and how to go on."""
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
        kwargs["callbacks"] = [self.record, *(config["callbacks"] or []), *self._standing_callbacks()]
        trainer = super().instantiate_trainer(**kwargs)
        self.command.trainer = trainer
        trainer.callbacks.sort(key=order)  # type: ignore[attr-defined]
        return trainer

    def _standing_callbacks(self) -> list[Callback]:
        callbacks: list[Callback] = [
            QuantizationSummary(),
            QuantizationMonitor(),
            ResultWriter(),
            RunLog(_plain(self.config[self.subcommand].as_dict())),
            TrainingDiagnostics(),
        ]
        if self._get(self.config_init, "trainer")["enable_progress_bar"] is not False:
            callbacks.append(progress_display())
        if self.subcommand != "fit":
            return callbacks
        best = ModelCheckpoint(
            self.directory,
            "best",
            monitor=self.model.selection_metric,
            mode="max",
            save_weights_only=True,
            save_on_train_epoch_end=False,  # but at once, before anything changes what validation has scored
            enable_version_counter=False,
        )
        last = ModelCheckpoint(self.directory, "last", save_on_train_epoch_end=True, enable_version_counter=False)
        if self._get(self.config_init, "trainer")["logger"] is not False:
            callbacks.append(LearningRateMonitor("step"))
        return [*callbacks, BestFigures(), best, last]


def _plain(config: Any) -> Any:
    """A parsed config without what the parser notes in it, such as the paths of files."""
    if isinstance(config, dict):
        return {key: _plain(value) for key, value in config.items() if not key.startswith("__")}
    return [_plain(item) for item in config] if isinstance(config, list | tuple) else config


def _with_checkpoint_files(plugins: Any, resume: bool) -> list[Any]:
    """Plugins of the trainer and, unless one of them reads and writes checkpoints already, the one that does."""
    given = plugins if isinstance(plugins, list) else [] if plugins is None else [plugins]
    return given if any(isinstance(plugin, CheckpointIO) for plugin in given) else [*given, CheckpointFiles(resume)]


def _is_first_process() -> bool:
    """Whether this is rank 0 of all machines; a machine's first process does not know its rank before the trainer."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0 and is_first_node()


def run_directory(config: Namespace) -> Path:
    """Where a command writes.

    That is ``--run`` if given; for a checkpoint that lies in a run directory, that directory, unless the command
    quantizes it, which makes another network of it; else ``runs/NAME``, where NAME is that of the first config file.
    """
    if config.run is not None:
        return Path(config.run)
    own = config.ckpt_path not in (None, "last", "best") and not _makes_another_network(config)
    named = [config.ckpt_path] if own else []
    for path in map(Path, (*named, *map(str, config.config or ()))):
        is_run = (path.parent / "config.yaml").exists()
        if is_run or path.suffix in (".yaml", ".yml", ".json"):
            directory = path.parent if is_run else Path("runs", path.stem)
            if own and (directory / "last.ckpt").exists() and Path(config.ckpt_path).parent != directory:
                raise ValueError(f"{config.ckpt_path} is not of the run in {directory}: name a directory by --run")
            return directory
    if named:  # a checkpoint that describes itself, kept apart from a run of its name
        path = Path(config.ckpt_path).resolve()
        return Path("runs") / f"{path.parent.name}-{path.stem}"
    raise ValueError("nothing names this run: give --run DIRECTORY, or a config by --config FILE")


def _makes_another_network(config: Namespace) -> bool:
    """Whether the command makes another network of the checkpoint's, such as a quantized one."""
    paths = [callback.class_path.rpartition(".") for callback in config.trainer.callbacks or ()]
    kinds = [getattr(import_module(module), name) for module, _, name in paths]
    return any(getattr(kind, "makes_another_network", False) for kind in kinds)


def quiet() -> None:
    """Silence advice of Lightning's that does not apply here."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # batches come from memory in one operation
    warnings.filterwarnings("ignore", ".*args parameter is intended to run from within Python.*")
    warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint need to be provided.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*could not find the monitored key.*")  # TrainingRecord says so
    warnings.filterwarnings("ignore", ".*Total length of `list` across ranks is zero.*")  # no validation was asked for
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")  # epochs are logged anyway
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")  # Lightning's use of torch
    warnings.filterwarnings("ignore", ".*AccumulateGrad node's stream.*")  # Lightning makes DDP in one of its own
    for name in ("pytorch.utilities.rank_zero", "fabric.utilities.rank_zero", "fabric.utilities.seed"):
        logging.getLogger(f"lightning.{name}").addFilter(_applies)


def _applies(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning's is neither advertisement nor noise, nor advice to lose precision on a GPU."""
    noise = ("Tip:", "Tensor Cores", "TPU available", "Seed set to", "Loading `train_dataloader`")
    return not any(words in record.getMessage() for words in noise)


class _ParsedOnly(QraCLI):
    """The command line up to its parser."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = Namespace(subcommand=None)  # type: ignore[no-untyped-call]

    def _set_seed(self) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def after_instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


@cache
def _parser() -> LightningArgumentParser:
    quiet()
    return _ParsedOnly([], RunningCommand([])).parser


def parse_command(words: Sequence[str]) -> None:
    """Parse a command without running it.

    Args:
        words: What follows ``qra`` on the command line.

    Raises:
        ValueError: If it cannot be parsed, with the key that is wrong.
    """
    arguments = prepared(words)
    try:
        _parser().parse_args(arguments)
    except ParsingError as reason:
        raise explained(reason, arguments) from None


class _PlannedOnly(QraCLI):
    """A command of a study up to its plan, before the checkpoints are there that it starts and learns from."""

    def before_instantiate_classes(self) -> None:
        self.directory = Path(self.config[self.subcommand].run)

    def after_instantiate_classes(self) -> None:
        network, data = self.config[self.subcommand].model.init_args.get("network"), self.datamodule
        data.prepare_data()
        if isinstance(network, Namespace) and link_to_data(network, data.num_classes, data.image_shape[0]):
            self.instantiate_classes()
        data.setup(self.subcommand)
        self.datamodule = data
        if isinstance(self.model, RobustTransfer):
            self.model.learn_from(freeze(copy.deepcopy(self.model.network)))

    def _run_subcommand(self, subcommand: str) -> None:
        pass


_probe = cache(Probe)


def plan_command(words: Sequence[str], threads: int) -> Plan:
    """Plan a command of a study without running it.

    Args:
        words: What follows ``qra`` on the command line.
        threads: Threads that it is to run on.

    Raises:
        ValueError: If what it would do cannot be told.
    """
    quiet()
    torch.set_num_threads(threads)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # each trainer's devices
    planned = _PlannedOnly(prepared(words), RunningCommand(list(words)))
    return make_plan(words[0], planned.trainer, planned.model, planned.datamodule, {}, _probe())


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: What follows ``qra`` on the command line; that of this process if not given.
    """
    arguments = list(sys.argv[1:] if args is None else args) or ["--help"]
    if answer(arguments) or tools.run(arguments, parse_command, plan_command):
        return
    quiet()
    words: list[str] = []
    try:
        words = prepared(arguments)
        with RunningCommand(words) as command:
            QraCLI(words, command)
    except ParsingError as reason:
        fail(explained(reason, words))
    except Exception as reason:
        fail(reason)
