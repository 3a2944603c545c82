import sys

from qra.front.answer import answer


def main() -> None:
    """Run one command; the console script."""
    if answer(sys.argv[1:]):
        return
    from qra import tools
    from qra.memory import keep_memory

    keep_memory()
    if not tools.run(sys.argv[1:]):
        from qra.cli import main as run_lightning

        run_lightning()


if __name__ == "__main__":
    main()
