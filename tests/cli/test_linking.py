"""The network of a config takes on what the data is like."""

import pytest
import torch
from jsonargparse import Namespace

from qra.cli.linking import link_normalization, link_to_data
from qra.models import resnet20


def network_config(class_path, **init_args):
    return Namespace(class_path=class_path, init_args=Namespace(**init_args))


def test_classes_and_channels_of_the_data_are_set_where_they_stand_at_their_defaults():
    network = network_config(
        "qra.models.resnet20", num_classes=10, mean=[0.4914, 0.4822, 0.4465], std=[0.2470, 0.2435, 0.2616]
    )
    assert link_to_data(network, 3, 1)
    assert link_normalization(network, lambda: ([0.5], [0.25]))
    made = resnet20(**network.init_args.as_dict())
    assert made(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    assert made.normalize.mean.flatten().tolist() == [0.5]
    assert not link_to_data(network, 3, 1)
    assert not link_normalization(network, lambda: ([0.6], [0.26]))


def test_classes_that_were_chosen_stay():
    network = network_config("qra.models.resnet20", num_classes=7)
    assert not link_to_data(network, 3, 3)
    assert network.init_args.num_classes == 7


def test_a_network_of_torchvision_inside_another_is_linked_too():
    inner = network_config("torchvision.models.resnet18", num_classes=1000)
    assert link_to_data(network_config("qra.models.Normalized", network=inner), 5, 3)
    assert inner.init_args.num_classes == 5


@pytest.mark.parametrize("std", [[0.2470, 0.2435, 0.2616], [0.229, 0.224, 0.225]])
def test_nothing_is_measured_for_a_network_whose_normalization_was_chosen(std):
    chosen = network_config("qra.models.resnet20", mean=[0.485, 0.456, 0.406], std=std)
    assert not link_normalization(chosen, lambda: 1 / 0)


def test_data_with_the_default_number_of_classes_changes_nothing():
    assert not link_to_data(network_config("qra.models.resnet20", num_classes=10), 10, 3)
