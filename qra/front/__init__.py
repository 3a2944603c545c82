"""Argument handling and instant answers of the command line; nothing here imports torch or Lightning."""
