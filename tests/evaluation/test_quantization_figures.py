import torch
from torch import nn

from qra.evaluation.quantization_figures import site_histograms, weight_grids
from qra.quant import PACT, DoReFa, QuantScheme, convert
from qra.quant.statistics import SiteStatistics, activation_statistics


def test_statistics_of_activations_are_of_the_values_before_and_after_rounding():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 2))
    convert(network, QuantScheme(DoReFa(), PACT(), 32, 2))
    with torch.no_grad():
        network[1].weight.copy_(2 * torch.eye(4))
        network[2].alpha.fill_(1.5)
    found = activation_statistics(network, torch.tensor([0.0, 0.2, 0.6, 1.0]).view(1, 1, 2, 2))["2"]
    torch.testing.assert_close(found.values, torch.tensor([0.0, 0.4, 1.2, 2.0]))
    torch.testing.assert_close(found.quantized, torch.tensor([0.0, 0.5, 1.0, 1.5]))
    assert found.clipped == 0.25


def test_both_grids_are_drawn_over_the_weights():
    weight = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (axes,) = weight_grids(weight, 3).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    counts = [len(lines.get_segments()) for lines in axes.collections]
    assert [label.split(",")[0] for label in labels] == ["Uniform", "PWLQ"]
    assert counts[0] <= 2**3
    assert 2**3 < counts[1] <= 2**4 - 1


def test_each_site_has_a_panel_and_no_other_is_shown():
    values = torch.linspace(0, 1, 100)
    sites = {f"site{i}": SiteStatistics(values, values.mul(3).round() / 3, 0.25) for i in range(5)}
    shown = [axes for axes in site_histograms(sites).axes if axes.get_visible()]
    assert [axes.get_title().split("\n")[0] for axes in shown] == list(sites)
    assert "25.0% clipped" in shown[0].get_title()
    assert all(len(axes.collections[0].get_segments()) == 4 for axes in shown)


def test_many_levels_do_not_hide_the_histogram():
    values = torch.linspace(0, 1, 1000)
    (axes,) = site_histograms({"site": SiteStatistics(values, values.mul(255).round() / 255, 0.0)}).axes
    assert max(end for line in axes.collections[0].get_segments() for _, end in line) <= 0.2
