"""The command line: ``main`` finds a command by its name, ``<name>.py`` holds a function whose
arguments are its options.

In a command's file, what is heavy is imported inside the function, so that ``COMMAND --help`` does
not wait for torch.
"""
