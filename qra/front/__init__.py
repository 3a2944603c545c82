"""What a command line says and answers, before and after the work: nothing here imports torch or Lightning."""
