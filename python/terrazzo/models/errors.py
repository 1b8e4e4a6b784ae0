"""Errors of model loading: one base class, one subclass for each thing a user can put right."""

from __future__ import annotations


class ModelError(Exception):
    """A model cannot be used as it is."""


class ConfigError(ModelError):
    """The configuration asks for something that is not supported, or contradicts itself."""


class CheckpointError(ModelError):
    """A weight file is missing, damaged, or disagrees with the configuration."""


class TokenizerError(ModelError):
    """The tokenizer cannot be read, or its kind is not supported."""


class ChatTemplateError(ModelError):
    """The model has no chat template, or the template refuses these messages."""


class ModelNotFoundError(ModelError):
    """No model has this name, or the place that has it cannot be reached."""
