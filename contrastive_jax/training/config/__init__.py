"""The configuration of a run."""

from contrastive_jax.training.config.parsing import (
  FUSION_OBJECTIVES as FUSION_OBJECTIVES,
)
from contrastive_jax.training.config.parsing import Augment as Augment
from contrastive_jax.training.config.parsing import Config as Config
from contrastive_jax.training.config.parsing import ConfigError as ConfigError
from contrastive_jax.training.config.parsing import Data as Data
from contrastive_jax.training.config.parsing import Evaluation as Evaluation
from contrastive_jax.training.config.parsing import Fusion as Fusion
from contrastive_jax.training.config.parsing import Initial as Initial
from contrastive_jax.training.config.parsing import Loss as Loss
from contrastive_jax.training.config.parsing import Model as Model
from contrastive_jax.training.config.parsing import Optimizer as Optimizer
from contrastive_jax.training.config.parsing import Ssl as Ssl
from contrastive_jax.training.config.parsing import Structure as Structure
from contrastive_jax.training.config.parsing import UserError as UserError
from contrastive_jax.training.config.parsing import (
  default_config as default_config,
)
from contrastive_jax.training.config.parsing import fields as fields
from contrastive_jax.training.config.parsing import (
  first_difference as first_difference,
)
from contrastive_jax.training.config.parsing import nearest as nearest
from contrastive_jax.training.config.parsing import parse as parse
from contrastive_jax.training.config.parsing import (
  with_operation_of as with_operation_of,
)
