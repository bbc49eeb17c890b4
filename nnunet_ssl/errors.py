"""Errors a user can act on: each is one line that names what was found and what to do."""

from __future__ import annotations

import sys


class NnsslError(Exception):
    """Base of every expected error; the commands print it as one line and exit with code 2."""


class SetupError(NnsslError):
    """The nnU-Net set-up lacks something: a variable, a dataset, plans, preprocessed data or a trained model."""


class InputError(NnsslError):
    """A file or folder the user gave cannot be used."""


class ConfigError(NnsslError):
    """A setting is out of range, unknown or contradicts another."""


class StateError(NnsslError):
    """What lies on disk does not fit what is asked for, for instance a manifest of another pool."""


class NotYetError(NnsslError):
    """Something that must come first is not done yet; the commands exit with code 3."""


LESS_MEMORY = "end what else runs on that GPU, or use plans of a smaller preset (8G, 11G, 24G, ...)"
"""What to do where a GPU has too little memory."""
WRITE_AGAIN = "write the stage again with nnssl_pseudolabel --stage."
"""End of a message about a stage dataset whose files are lost, damaged or edited."""


def is_full_gpu(error: BaseException) -> bool:
    """Whether it is PyTorch's error of a GPU without enough memory; where PyTorch is not loaded it cannot be."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)
