"""Text transformer."""

import jax.numpy as jnp
from flax import linen as nn

from contrastive_jax._types import Array
from contrastive_jax.models import layers, transformer


def end_positions(
  tokens: Array, *, pad_id: int = 0, eot_id: int | None = None
) -> Array:
  """Positions of the end tokens.

  With `eot_id` it is the first occurrence of that id; without, and in rows
  that lack it, the last token that is not padding (0 in an empty row).

  Args:
    tokens: integer [N, L].
    pad_id: id of padding.
    eot_id: id of the end token, or None.

  Returns:
    int32 [N].

  >>> import jax.numpy as jnp
  >>> end_positions(jnp.array([[5, 7, 9, 0], [5, 9, 0, 0]])).tolist()
  [2, 1]
  """
  index = jnp.arange(tokens.shape[1], dtype=jnp.int32)
  last = jnp.max(jnp.where(tokens != pad_id, index, 0), axis=1)
  if eot_id is None:
    return last
  is_end = tokens == eot_id
  first = jnp.argmax(is_end, axis=1).astype(jnp.int32)
  return jnp.where(jnp.any(is_end, axis=1), first, last)


class TextTransformer(transformer.TransformerFields):
  """Transformer over token ids, causal or bidirectional.

  A causal tower needs no padding mask: padding comes last, so no other token
  sees it. A bidirectional one masks every `pad_id`. Either way more padding
  does not change the feature.

  Attributes:
    vocab_size: number of token ids.
    context_length: longest sequence.
    width: width of the tokens and of the feature.
    causal: whether a token sees only those before it.
    pool: `eot` (the end token), `mean` (over tokens that are not padding), `cls`
      (the first token; bidirectional towers only) or `last` (the last column, of
      texts that are all padded to `context_length`, as SigLIP has it).
    pad_id: id of padding.
    attend_padding: whether a bidirectional tower's padding is attended like other
      tokens, as SigLIP's is.
    eot_id: id of the end token; None takes the last token before padding.

  The other fields are those of `transformer.TransformerFields`.

  Reference: Radford et al., Learning transferable visual models from natural
  language supervision, 2021.

  >>> import jax, jax.numpy as jnp
  >>> text = TextTransformer(
  ...     vocab_size=10, context_length=8, width=16, depth=1, num_heads=2)
  >>> tokens = jnp.array([[1, 5, 2, 0], [1, 5, 6, 2]])
  >>> key = jax.random.key(0)
  >>> feature, _ = jax.eval_shape(text.init_with_output, key, tokens)
  >>> feature.shape
  (2, 16)
  """

  vocab_size: int = 49_408
  context_length: int = 77
  width: int = 512
  num_heads: int = 8
  causal: bool = True
  pool: str = "eot"
  pad_id: int = 0
  attend_padding: bool = False
  eot_id: int | None = None
  layer_norm_eps: float = 1e-5

  @nn.compact
  def __call__(
    self, tokens: Array, *, train: bool = False, return_tokens: bool = False
  ) -> Array | tuple[Array, Array]:
    """Encodes token ids.

    Args:
      tokens: integer [N, L], L at most `context_length`, padded at the end.
      train: whether dropout and stochastic depth are active (needs the
        `dropout` key).
      return_tokens: whether the tokens are returned beside the feature.

    Returns:
      The feature [N, width]; with `return_tokens` (feature, tokens
      [N, L, width] after the final norm).

    Raises:
      ValueError: if the tokens or the settings do not fit.
    """
    self._check(tokens)
    length = tokens.shape[1]
    x = nn.Embed(
      self.vocab_size,
      self.width,
      embedding_init=nn.initializers.normal(0.02),
      dtype=self.dtype,
      name="token_embedding",
    )(tokens)
    position = self.param(
      "position_embedding",
      nn.initializers.normal(0.01),
      (self.context_length, self.width),
      jnp.float32,
    )
    x = x + position[:length].astype(x.dtype)
    x = nn.Dropout(self.dropout)(x, deterministic=not train)
    is_token = tokens != self.pad_id
    if self.causal:
      mask = jnp.tril(jnp.ones((1, 1, length, length), bool))
    elif self.attend_padding:
      mask = None
    else:
      mask = is_token[:, None, None, :]
    x = transformer.Transformer(
      **layers.shared(self, transformer.Transformer), name="transformer"
    )(x, mask, train=train)
    norm = nn.LayerNorm(
      epsilon=self.layer_norm_eps, dtype=self.dtype, name="norm"
    )
    if self.pool == "mean":
      # Before the norm: a rare token, whose embedding has hardly left its
      # small initial value, then weighs little instead of as much as any.
      feature = norm(layers.mean_token(x, is_token))
      return (feature, norm(x)) if return_tokens else feature
    x = norm(x)
    if self.pool == "cls":
      feature = x[:, 0]
    elif self.pool == "last":
      feature = x[:, -1]
    else:
      end = end_positions(tokens, pad_id=self.pad_id, eot_id=self.eot_id)
      feature = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
    return (feature, x) if return_tokens else feature

  def _check(self, tokens: Array) -> None:
    layers.check_choice("pool", self.pool, ("eot", "mean", "cls", "last"))
    if self.causal and self.pool == "cls":
      raise ValueError(
        "pool='cls' needs causal=False: the first token of a causal tower"
        " sees nothing else."
      )
    layers.check_tokens(tokens, self.context_length)
    if self.pool == "last" and tokens.shape[1] != self.context_length:
      raise ValueError(
        f"tokens must be context_length = {self.context_length} long with"
        f" pool='last'; got {tokens.shape[1]}."
      )
