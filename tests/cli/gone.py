"""The command line, with a strategy that takes the network away where Lightning takes it off its device."""

import sys

from lightning.pytorch.strategies import Strategy

_TEARDOWN = Strategy.teardown


def teardown(strategy):
    """Whatever computes on the network afterwards fails."""
    module = strategy.lightning_module
    _TEARDOWN(strategy)
    for network in (module.network, *module._frozen, *getattr(module, "_teacher", ())):
        network.to("meta")


if __name__ == "__main__":
    from qra.cli import main

    Strategy.teardown = teardown
    main(sys.argv[1:])
