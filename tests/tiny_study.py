"""A study whose cells take seconds."""

from pathlib import Path

import yaml

CONFIGS = Path(__file__).parents[1] / "configs"
NETWORK = Path(__file__).parent / "cli/tiny-network.yaml"

STUDY = {
    "sources": {"plain": "float"},
    "quantizers": {"pwlq": str(CONFIGS / "callback/pwlq.yaml"), "pact": str(CONFIGS / "quant/pact.yaml")},
    "calibration_size": [20],
    "options": {
        "data": str(CONFIGS / "data/synthetic.yaml"),
        "data.init_args.train_size": 80,
        "data.init_args.test_size": 40,
        "data.init_args.val_size": 20,
        "data.init_args.batch_size": 20,
        "model.init_args.network": str(NETWORK),
        "model.init_args.val_attack.steps": 1,
        "trainer.accelerator": "cpu",
        "trainer.max_epochs": 2,
        "trainer.logger": False,
    },
    "test": {"evaluation.n": 10, "evaluation.steps": 2, "evaluation.eps": ["2/255", "8/255"]},
    "stages": [
        {"name": "float", "pipeline": str(CONFIGS / "pipeline/float-plain.yaml"), "training": "plain"},
        {
            "name": "ptq",
            "pipeline": str(CONFIGS / "pipeline/float-plain.yaml"),
            "training": "none",
            "init": ["plain"],
            "quantizer": ["pwlq"],
            "bits": ["W4A8", "W2A8"],
        },
        {
            "name": "qat",
            "pipeline": str(CONFIGS / "pipeline/qat-plain.yaml"),
            "training": "plain",
            "init": ["plain"],
            "quantizer": ["pact"],
        },
    ],
}


def write(path="tiny.yaml", **changes):
    """Write the study with other values of some keys; a change of ``stages`` maps a stage's number to its changes."""
    study = {**STUDY, "stages": [dict(stage) for stage in STUDY["stages"]]}
    for number, change in changes.pop("stages", {}).items():
        study["stages"][number] |= change
    Path(path).write_text(yaml.safe_dump({**study, **changes}))
    return path
