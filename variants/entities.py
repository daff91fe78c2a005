"""A policy for sets: observations [entities, features] in any order, those of zeros alone absent.

    python cleanpuffer.py --env gym:module:Id-v0 --policy variants/entities.py:EntityPolicy

It also shows how a policy changes its encoder.
"""

from torch import nn

from cleanpuffer import Policy
from policies import Entities


class EntityPolicy(Policy):
    """`Policy` that takes an observation of two dimensions for a set of entities."""

    def make_encoder(self, parts: list | None) -> nn.Module:
        return Entities(self.shape[-1], self.hidden_size)
