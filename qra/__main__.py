import sys

from qra import tools


def main() -> None:
    """Run one command; the console script."""
    if not tools.run(sys.argv[1:]):
        from qra.cli import main as run_lightning

        run_lightning()


if __name__ == "__main__":
    main()
