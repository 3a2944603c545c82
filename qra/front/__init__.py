"""What a command line says and is told, before and after the work: nothing here imports torch or Lightning."""
