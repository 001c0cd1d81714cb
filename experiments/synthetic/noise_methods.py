"""The methods that the study of noise compares."""

from typing import Any

from contrastive_jax import losses

INFO_NCE, DCL, EXACT = "InfoNCE", "DCL", "exact 1/Z"
_DECAY = losses.MovingAverage(1.0, 0.9)
_NO_LEVEL = {"level_rate": 0.0}

# Options of `losses.em_*`, which InfoNCE and the control, exact weights, do not call.
# DCL is InfoNCE without the positive in the denominator.
METHODS: dict[str, Any] = {
  INFO_NCE: {},
  DCL: {"rule": losses.BatchEstimate()},
  EXACT: {},
}
for _name, _rule in (
  ("average (visits + 1)^-0.9", _DECAY),
  ("average 0.1", losses.MovingAverage(0.1)),
  ("average 0.5", losses.MovingAverage(0.5)),
):
  METHODS |= {
    f"{_name}: margin": {"rule": _rule, "margins": True, **_NO_LEVEL},
    f"{_name}: positive-free": {"rule": _rule, **_NO_LEVEL},
    f"{_name}: positive-free + level": {"rule": _rule},
  }
for _concentration in (8.0, 1.0):
  METHODS[f"average (visits + 1)^-0.9, concentration {_concentration:g}"] = {
    "rule": _DECAY,
    "concentration": _concentration,
    **_NO_LEVEL,
  }
METHODS |= {
  "conjugate 10: margin (published)": {
    "rule": losses.Conjugate(10.0, min_rate=0.0, eps=1e-6),
    "margins": True,
    **_NO_LEVEL,
  },
  "conjugate 10: positive-free + level": {"rule": losses.Conjugate(10.0)},
  "softplus 0.5: positive-free + level": {"rule": losses.Softplus(0.5)},
  "U-max 0.5: positive-free + level": {"rule": losses.DualDescent(0.5)},
}
