"""Writes what `transformers` computes with small random models.

python -m tests.models.make_golden_transformers

Needs the packages torch and transformers; the tests need the file alone.
"""

import pathlib

import numpy as np

PATH = pathlib.Path(__file__).parent / "golden_transformers.npz"
WIDTH, HEADS, DEPTH, VOCABULARY, CONTEXT, CLASSES = 32, 4, 2, 40, 12, 2
IMAGE, PATCH = 16, 8


def main() -> None:
  """Writes the file."""
  import torch
  import transformers

  torch.manual_seed(0)
  common = dict(
    hidden_size=WIDTH,
    num_hidden_layers=DEPTH,
    num_attention_heads=HEADS,
    intermediate_size=4 * WIDTH,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    # Far from 0, so that no part of a layer is lost in the rest.
    initializer_range=0.3,
    attn_implementation="eager",
  )
  text = dict(
    vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, pad_token_id=0
  )
  bert = transformers.BertModel(
    transformers.BertConfig(**common, **text), add_pooling_layer=False
  )
  decoder = transformers.BertLMHeadModel(
    transformers.BertConfig(
      **common, **text, is_decoder=True, add_cross_attention=True
    )
  )
  vit = transformers.ViTModel(
    transformers.ViTConfig(
      **common, image_size=IMAGE, patch_size=PATCH, layer_norm_eps=1e-6
    ),
    add_pooling_layer=False,
  )
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, VOCABULARY, (3, 7))
  tokens[1, 5:] = 0
  answers = rng.integers(1, VOCABULARY, (3, 4))
  images = rng.normal(size=(3, 3, IMAGE, IMAGE)).astype(np.float32)
  arrays = {"tokens": tokens, "answers": answers, "images": images}
  for name, model in (("bert", bert), ("decoder", decoder), ("vit", vit)):
    model.eval()
    for parameter in model.parameters():
      # Biases and norms start at 0 and 1, where a mistake would not show.
      with torch.no_grad():
        parameter += 0.1 * torch.randn(parameter.shape)
    for key, value in model.state_dict().items():
      arrays[f"{name}/{key}"] = value.numpy()
  with torch.no_grad():
    mask = torch.tensor(tokens != 0)
    states = bert(torch.tensor(tokens), attention_mask=mask.long())[0]
    arrays["bert_output"] = states.numpy()
    arrays["decoder_output"] = decoder(
      torch.tensor(answers),
      encoder_hidden_states=states,
      encoder_attention_mask=mask.long(),
    ).logits.numpy()
    arrays["vit_output"] = vit(torch.tensor(images))[0].numpy()
  np.savez_compressed(PATH, **arrays)
  print(f"Wrote {PATH}.")


if __name__ == "__main__":
  main()
