"""Wrong inputs end in one line that says what to do, with exit code 2 and nothing written."""

import os
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from commands import CONFIGS, NETWORK, TINY, TINY_FIT, pipeline, qra, refused
from hostile import Payload
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint

from qra.cli.pipeline import check_monitored
from qra.modules import VanillaTraining

AT = "--config pipeline/float-at "
SYNTHETIC = AT + "--data data/synthetic --data.train_size 600 --data.test_size 20 --data.val_size 20 "
ATTACK = "--model.attack"
FIT_AT = ["fit", *pipeline("float-at"), *TINY_FIT]
FILES = {
    "bytes.yaml": b"data: \xff\xfe",
    "deep.yaml": b"[" * 500,
    "empty.yaml": b"",
    "fraction.yaml": b"class_path: qra.data.SyntheticDataModule\ninit_args: {fraction: many}\n",
    "huge.yaml": b"#" * 2**21,
    "list.yaml": b"- 1\n",
    "names-fraction.yaml": b"data: fraction.yaml\n",
    "no-class.yaml": b"data: {class_path: qra.data.Nothing}\n",
    "of-old.yaml": b"evaluation: {epsilons: [8/255]}\n",
    "old.yaml": b"model: {class_path: qra.modules.AdversarialTraining, init_args: {epsilon: 8/255}}\n",
    "own/a.yaml": b"data: ../own/none.yaml\n",
    "plain-file": b"x",
    "result.json": b"[1",
    "run/result.json": b"{",
    "self.yaml": b"data: self.yaml\n",
    "starts.yaml": b"model: {init_args: {init_from: plain.ckpt}}\n",
    "syntax.yaml": b"model: [1,\ndata: {",
    "tag.yaml": b"data: !!python/object/apply:os.system [ls]\n",
    "text.ckpt": b"hello",
    "top.yaml": b"modle: {a: 1}\n",
    "twice.yaml": b"data: 1\n",
    "twice.yml": b"data: 1\n",
    "images/train/cat/1.png": b"no image",
}
WRONG = {
    # commands
    "tset": "there is no command 'tset': did you mean test?",
    "fit": "fit has no data and no model: give --config pipeline/NAME",
    "test": "test has no data and no model: give --config",
    "test --ckpt_path checkpoints/float-at": "test has no data: give --data data/cifar10, data/image_folder",
    "fit pipeline/float-at": "'pipeline/float-at' belongs to no option: write --config pipeline/float-at",
    "completion tcsh": "invalid choice: 'tcsh'",
    "configs bogus": "invalid choice: 'bogus'",
    "doctor --bogus": "doctor has no option --bogus",
    # configs
    "fit --config": "--config: its value is missing",
    "fit --config pipeline/flot-at": "there is no config pipeline/flot-at: did you mean pipeline/float-at?",
    "fit --config float-at": "there is no config file float-at: did you mean pipeline/float-at?",
    "fit --config configs/pipeline/float-at.yaml": "did you mean pipeline/float-at?",
    "fit --config nowhere.yaml": "there is no config file nowhere.yaml",
    "fit --config empty.yaml": "empty.yaml is empty",
    "fit --config syntax.yaml": "syntax.yaml, line 2: is not YAML",
    "fit --config bytes.yaml": "bytes.yaml is not UTF-8 text (byte 6)",
    "fit --config list.yaml": "list.yaml is not a mapping of keys",
    "fit --config huge.yaml": "huge.yaml has 2,097,152 bytes",
    "fit --config deep.yaml": "deep.yaml: is nested too deeply",
    "fit --config tag.yaml": "tag.yaml, line 1: is not YAML",
    "fit --config self.yaml": "self.yaml: includes itself",
    "fit --config own/a.yaml": "own/a.yaml: data: there is no config file ../own/none.yaml",
    "fit --config link.yaml": "link.yaml is a link to gone.yaml, which does not exist",
    "fit --config images": "images is not a file",
    "fit --config fifo.yaml": "fifo.yaml is not a file",
    "fit --config twice": "twice: there is both twice.yaml and twice.yml",
    f"fit {AT} --config top.yaml": "top.yaml: unknown key 'modle.a'",
    f"fit {AT} --config of-old.yaml": "of-old.yaml: unknown key 'evaluation.epsilons': did you mean --evaluation.eps?",
    f"fit {AT} --config old.yaml": "old.yaml: unknown key 'model.epsilon'",
    f"fit {AT} --config names-fraction.yaml": "fraction.yaml: data.fraction: expected float, got many",
    f"fit {AT} --config no-class.yaml": "no-class.yaml: data: module 'qra.data' has no attribute 'Nothing'",
    "fit --config data/synthetic": "takes configs of pipeline or trainer or debug: data/synthetic is for --data",
    "fit --config study/quickstart": "study/quickstart is for qra study run",
    f"fit {AT} {ATTACK} quant/pact": "--model.attack takes configs of attack: quant/pact is for --model.scheme",
    # options
    f"fit {AT} --run ''": "--run: its value is empty",
    f"fit {AT} --run --data data/synthetic": "--run: its value is missing",
    f"fit {SYNTHETIC} --run plain-file": "run: plain-file is a file",
    f"fit {SYNTHETIC} --run plain-file/below": "run: plain-file is a file",
    f"fit {AT} --jobs 2": "fit has no option --jobs: it is one of qra study run",
    f"fit {AT} --seeds": "fit has no option --seeds: it is one of qra study list, study status, study run, compare",
    f"fit {AT} --trainer.max_epoch 3": "fit has no option --trainer.max_epoch: did you mean --trainer.max_epochs?",
    f"fit {AT} --trainer.nonsense 3": "fit has no option --trainer.nonsense",
    f"fit {AT} {ATTACK}.ep 3": "unknown key 'model.attack.ep': did you mean --model.attack.eps?",
    f"fit {AT} --model.init_args.nonsense 3": "unknown key 'model.nonsense'",
    f"fit {AT} --model.class_path qra.modules.Nonsense": "has no attribute 'Nonsense'",
    f"fit {AT} {ATTACK} attack/none": "there is no config attack/none",
    f"fit {AT} {ATTACK} syntax.yaml": "syntax.yaml, line 2: is not YAML",
    f"fit {AT} {ATTACK} link.yaml": "link.yaml is a link to gone.yaml",
    f"fit {AT} {ATTACK} empty.yaml": "empty.yaml is empty",
    f"fit {AT} {ATTACK}.eps 8": "eps is 8, but pixels are in [0, 1]: did you mean 8/255?",
    f"fit {AT} {ATTACK}.eps eight": "model.attack.eps: 'eight' is not a length in pixels",
    f"fit {AT} {ATTACK}.eps nan": "eps is nan",
    f"fit {AT} {ATTACK}.step_size -1/255": "step_size is -0.0039",
    f"fit {AT} {ATTACK}.steps -3": "steps is -3",
    f"fit {AT} {ATTACK}.steps 2.5": "model.attack.steps: expected int, got 2.5",
    f"fit {AT} {ATTACK}.norm l7": "model.attack.norm: expected one of 'linf', 'l2', got l7",
    f"fit {AT} --trainer.max_epochs many": "trainer.max_epochs: expected int, got many",
    f"fit {AT} --trainer.callbacks+ callback/nothing": "there is no config callback/nothing",
    f"fit {AT} --trainer.callbacks+ qra.callbacks.Nothing": "trainer.callbacks: module 'qra.callbacks' has no",
    f"fit {AT} --trainer.accelerator warp": "accelerator='warp'",
    f"fit {AT} --trainer.accelerator gpu --trainer.devices 99": "qra doctor shows the devices",
    f"fit {AT} --untrained maybe": "untrained: expected bool, got maybe",
    f"fit {AT} --model.val_attack null": "val_attack is none",
    f"fit {AT} --model.network network/resnet50": "there is no config network/resnet50: did you mean network/resnet20?",
    f"fit {AT} --model.network.class_path qra.models.Normalized": "fit has no network: give --model.network.network",
    f"fit {AT} --model.network own.untyped": "own.untyped is no Module (a function must be annotated to return one)",
    f"fit {AT} --model.network nowhere.Net": "model.network: no module nowhere is installed",
    f"fit {AT} --model.optimizer.lr fast": "model.optimizer.lr: expected float, got fast",
    f"fit {AT} --evaluation.eps 8/255": "evaluation.eps: expected a list, such as '[8/255]'",
    f"fit {AT} --model.scheme quant/pact --model.scheme.overrides '{{fc: 2}}'": "expected str, got 2: give layer names",
    f"fit {AT} --model.scheme W4A4": "model.scheme: expected a config (qra configs quant) or",
    f"fit {AT} --model.optimizer optim/onecycle": "model.optimizer: qra.schedules.OneCycle is no Optimizer",
    f"fit {AT} --model.val_attack.targeted true": "the attack is targeted, but validation needs an untargeted",
    f"fit {AT} --seed_everything -1": "seed_everything is -1: it must be a whole number from 0",
    f"fit {AT} --evaluation.n 0": "n is 0",
    "fit --config pipeline/qat-at --model.scheme.weight_bit_width 99": "weight_bit_width: bit width 99",
    # data
    f"fit {AT}": "CIFAR-10 is not in data: download it with --data.download true",
    f"fit {AT} --data nowhere": "data: ",  # the reason depends on the classes that were imported
    f"fit {AT} --data data/image_folder --data.root nowhere": "nowhere/train does not exist",
    f"fit {AT} --data data/image_folder --data.root images": "images/train needs at least 2 class folders",
    f"fit {SYNTHETIC} --data.fraction 0": "fraction is 0",
    f"fit {SYNTHETIC} --data.val_size 600": "val_size is 600",
    f"fit {SYNTHETIC} --data.batch_size 601": "batch_size is 601",
    f"fit {SYNTHETIC} --data.batch_size 0": "batch_size is 0",
    # checkpoints
    f"fit {SYNTHETIC} --ckpt_path none.ckpt": "none.ckpt: there is no such checkpoint",
    f"fit {SYNTHETIC} --ckpt_path last": "runs/float-at/last.ckpt: there is no such checkpoint",
    f"fit {SYNTHETIC} --ckpt_path text.ckpt": "text.ckpt: ",
    f"fit {SYNTHETIC} --model.init_from none.ckpt": "none.ckpt: there is no such checkpoint",
    "fit --ckpt_path checkpoints/float-at --data data/synthetic": "FromCheckpoint cannot be trained",
    "test --ckpt_path images": "images is a directory: name a checkpoint in it, such as images/best.ckpt",
    "test --ckpt_path none.ckpt --data data/synthetic": "none.ckpt: there is no such checkpoint",
    f"test {SYNTHETIC}": "the network has no trained weights: test a checkpoint by --ckpt_path FILE",
    f"predict {SYNTHETIC}": "the network has no trained weights",
    f"validate {SYNTHETIC}": "the network has no trained weights",
    f"test {SYNTHETIC} --config starts.yaml": "to test a checkpoint, use --ckpt_path plain.ckpt",
    f"test {SYNTHETIC} --ckpt_path a --model.init_from b.ckpt": "to test a checkpoint, use --ckpt_path b.ckpt",
    # tools
    "compare nowhere": "nowhere: there is no result;",
    "compare result.json": "result.json: ",
    "compare run": "run/result.json: ",
    "doctor --data data/image_folder --data.root x": "doctor has no option --data.root: --data takes one value here",
    "compare --ckpt_path x": "compare has no option --ckpt_path: it is one of qra fit",
    "compare": "compare has no run: give it after qra compare",
    "compare a b --data.root x": "--data.root needs a data module: give the test images by --data",
    "compare a b --data quant/pact": "--data takes configs of data: quant/pact is for --model.scheme",
    "compare a b --data=data/cifar10 --data.rot x": "unknown key 'data.rot': did you mean --data.root?",
    "deploy test": "deploy test has no directory: give it after qra deploy test",
    "compare a b --transfer": "give the test images by --data",
    "compare a b --transfer --data data/synthetic --out plain-file/x": "plain-file is a file, so nothing can be",
    "compare a b --transfer --eps 8/0": "'8/0' is not a length in pixels",
    "study run study/none": "there is no config study/none",
    "study run nowhere.yaml": "there is no config file nowhere.yaml",
    "study run empty.yaml": "empty.yaml: is not a study",
    "study list study/quickstart --jobs 2": "study has no option --jobs",
    "study run study/quickstart --jobs many": "argument --jobs: invalid int value: 'many'",
    "study bogus study/quickstart": "invalid choice: 'bogus'",
    "report nowhere": "nowhere: there is no study here",
    "report images": "images: no cells of a study are here",
    "report images --budget-kib much": "argument --budget-kib: invalid float value: 'much'",
}


@pytest.fixture
def wrong_files():
    """What is wrong in the working directory."""
    for name, content in FILES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)
    Path("link.yaml").symlink_to("gone.yaml")
    os.mkfifo("fifo.yaml")


@pytest.mark.parametrize(("command", "reason"), WRONG.items(), ids=lambda value: value[:60])
@pytest.mark.usefixtures("wrong_files")
def test_a_wrong_input_is_one_line_and_nothing_is_written(command, reason):
    before = {path: path.lstat().st_mtime_ns for path in Path().rglob("*")}
    assert reason in refused(*shlex.split(command))
    assert {path: path.lstat().st_mtime_ns for path in Path().rglob("*")} == before


def test_a_monitored_metric_that_no_validation_has_is_refused_before_training():
    def check(monitor, *callbacks, module=VanillaTraining):
        trainer = Trainer(accelerator="cpu", logger=False, callbacks=[EarlyStopping(monitor), *callbacks])
        check_monitored(trainer, module(torch.nn.Flatten()))

    class Own(VanillaTraining):
        pass

    class OwnCallback(Callback):
        pass

    with pytest.raises(ValueError, match=r"EarlyStopping monitors val_loss: choose one of val/clean_acc, .*_loss"):
        check("val_loss")
    check("val/robust_loss")
    check("train/loss")
    check("val/robust_loss", ModelCheckpoint(monitor="step"), ModelCheckpoint(monitor="epoch"))
    check("mine", module=Own)
    check("mine", OwnCallback())


def test_an_error_that_nobody_foresaw_is_one_line_too(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    reason = refused(*FIT_AT, "--model.network", "broken.FailsInTraining", "--run", "broken")
    assert reason.startswith("ZeroDivisionError: ")
    assert "QRA_DEBUG=1 shows the traceback" in reason
    assert not Path("broken").exists()


def test_the_traceback_of_a_run_that_got_somewhere_is_kept_beside_it(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    network = ["--model.network", "broken.FailsInTraining", "--model.network.after", "3"]
    reason = refused(*FIT_AT, *network, "--run", "broken")
    assert "the traceback is in broken/error.txt" in reason
    assert "in forward" in Path("broken/error.txt").read_text()


def test_a_wrong_config_is_named():
    assert "nowhere.yaml" in refused("fit", "--config", "nowhere.yaml")
    Path("wrong.yaml").write_text("data: ../data/nowhere.yaml\n")
    assert "data: there is no config file ../data/nowhere.yaml" in refused("fit", "--config", "wrong.yaml")


def test_an_unknown_command_is_refused():
    assert "there is no command 'train'" in refused("train")


def test_a_run_without_a_name_is_refused():
    words = ["--model", "qra.modules.VanillaTraining", "--model.network", "qra.models.resnet20"]
    assert "give --run" in refused("fit", *TINY, *words)


def test_a_taken_run_directory_is_refused_and_kept(plain_run):
    before = (plain_run / "last.ckpt").stat().st_mtime_ns
    assert "resume it by --ckpt_path last" in refused("fit", *pipeline("float-plain"), *TINY_FIT, "--run", plain_run)
    assert (plain_run / "last.ckpt").stat().st_mtime_ns == before


@pytest.fixture
def copied(plain_run):
    return Path(shutil.copy(plain_run / "best.ckpt", "copied.ckpt"))


def test_a_checkpoint_of_another_network_is_refused(copied):
    network = CONFIGS / "network/resnet18.yaml"
    arguments = [*pipeline("float-plain"), *TINY, "--model.init_args.network", network, "--ckpt_path", copied]
    assert "copied.ckpt: is a checkpoint of a different network" in refused("test", *arguments)


def test_a_truncated_checkpoint_is_refused(copied):
    copied.write_bytes(copied.read_bytes()[:5000])
    assert "copied.ckpt: " in refused("test", *pipeline("float-plain"), *TINY, "--ckpt_path", copied)


def test_a_checkpoint_with_pickled_code_is_refused_and_the_code_not_run(copied):
    content = torch.load(copied, weights_only=True)
    torch.save({**content, "surprise": Payload("pwned")}, copied)
    assert "holds pickled objects" in refused("test", *pipeline("float-plain"), *TINY, "--ckpt_path", copied)
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "no result"), ("{", "truncated"), ("{}", "not a result of schema")]
)
def test_compare_refuses_what_is_no_result(content, reason):
    Path("run").mkdir()
    if content is not None:
        Path("run/result.json").write_text(content)
    assert reason in refused("compare", "run")


def test_a_start_that_numbers_the_classes_otherwise_is_named(copied):
    content = torch.load(copied, weights_only=True)
    content["qra"]["classes"] = content["qra"]["classes"][::-1]
    torch.save(content, copied)
    start = ["--model.init_from", copied, "--model.val_attack", "null", "--trainer.max_steps", 1, "--run", "run"]
    output, code = qra("fit", *pipeline("float-plain"), *TINY_FIT, *NETWORK, *start)
    assert code == 0, output
    assert "copied.ckpt: was trained with the class " in output
    assert "training has to learn the classes again" in output


def test_weights_of_another_network_are_no_start(copied):
    network = CONFIGS / "network/resnet18.yaml"
    reason = refused(*FIT_AT, "--model.init_args.network", network, "--model.init_args.init_from", copied)
    assert "copied.ckpt: is a checkpoint of a different network" in reason
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("fit --config pipeline/quickstart-plain --model.attack attack/pgd3", "no chosen class has it"),
        ("test --ckpt_path runs/nothere/best.ckpt", "runs/nothere/best.ckpt: there is no such checkpoint"),
        ("test --ckpt_path . --data data/synthetic --config pipeline/float-plain", "is a directory: name a file in it"),
    ],
)
def test_advice_leads_to_what_was_meant(command, reason):
    assert reason in refused(*shlex.split(command))
