"""The configuration of a run, as frozen dataclasses that own their fields."""

from contrastive_jax.training.config.errors import ConfigError as ConfigError
from contrastive_jax.training.config.errors import UserError as UserError
from contrastive_jax.training.config.schema import Config as Config
from contrastive_jax.training.config.schema import ConfigDraft as ConfigDraft
from contrastive_jax.training.config.schema import checked as checked
from contrastive_jax.training.config.schema import (
  default_config as default_config,
)
from contrastive_jax.training.config.schema import draft_of as draft_of
from contrastive_jax.training.config.schema import (
  first_difference as first_difference,
)
from contrastive_jax.training.config.schema import parse as parse
from contrastive_jax.training.config.schema import (
  with_operation_of as with_operation_of,
)
