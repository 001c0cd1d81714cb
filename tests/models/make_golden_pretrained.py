"""Writes what other libraries' models compute with weights that their names decide.

python -m tests.models.make_golden_pretrained

Needs open-clip-torch, timm, torchvision and transformers; the tests need the files
alone, because they draw the same weights.
"""

import json
import math
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

PATH = pathlib.Path(__file__).parent / "golden_pretrained.npz"
FOLDER = pathlib.Path(__file__).parent / "golden_torch"
IMAGE, CONTEXT, VOCABULARY, WIDTH, EMBED = 32, 10, 60, 32, 24
# Models of open_clip at full size; only the last layer's outputs are kept.
FULL = ("RN50", "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-B-16-SigLIP2")


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """Weights for a model's tensors, drawn from their names.

  Args:
    shapes: by name.

  Returns:
    float32 arrays by name, of a size that keeps signals alive through layers.
  """
  out = {}
  for name, shape in shapes.items():
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    value = rng.standard_normal(shape, np.float32)
    if name.endswith("running_var"):
      value = 0.5 + np.abs(value)
    elif len(shape) < 2:
      value = (name.endswith("weight") and len(shape) == 1) + 0.1 * value
    else:
      value = value * math.prod(shape[1:]) ** -0.5
    out[name] = np.asarray(value, np.float32)
  return out


def inputs(image: int, context: int, vocabulary: int) -> tuple[Any, Any]:
  """Images [2, 3, S, S], and texts [3, L] whose end is their largest id."""
  rng = np.random.default_rng(0)
  images = rng.normal(size=(2, 3, image, image)).astype(np.float32)
  tokens = rng.integers(2, vocabulary - 1, (3, context))
  for row, end in enumerate((4, context - 1, 1)):
    tokens[row, end], tokens[row, end + 1 :] = vocabulary - 1, 0
  return images, tokens


def small_models() -> dict[str, Any]:
  """The models whose layers are compared one by one."""
  import open_clip
  import timm
  import torchvision
  import transformers

  text = dict(
    context_length=CONTEXT,
    vocab_size=VOCABULARY,
    width=WIDTH,
    heads=2,
    layers=2,
  )

  def clip(vision: dict, quick: bool) -> Any:
    return open_clip.CLIP(
      embed_dim=EMBED,
      vision_cfg=dict(image_size=IMAGE, **vision),
      text_cfg=text,
      quick_gelu=quick,
    )

  vit = dict(layers=2, patch_size=8, head_width=16, width=WIDTH)
  small = dict(
    img_size=IMAGE, patch_size=8, embed_dim=WIDTH, depth=2, num_heads=2
  )
  siglip = open_clip.CustomTextCLIP(
    embed_dim=WIDTH,
    init_logit_bias=-10,
    vision_cfg=dict(
      image_size=IMAGE,
      timm_model_name="vit_base_patch16_siglip_224",
      timm_model_pretrained=False,
      timm_pool="map",
      timm_proj="none",
    ),
    text_cfg=dict(
      no_causal_mask=True,
      proj_bias=True,
      pool_type="last",
      pad_id=1,
      norm_kwargs={"eps": 1e-6},
      act_kwargs={"approximate": "tanh"},
      **text,
    ),
  )
  siglip.visual.trunk = timm.create_model(
    "vit_base_patch16_siglip_224", num_classes=0, **small
  )
  return {
    "clip_vit_quick_gelu": clip(vit, True),
    "clip_vit": clip(vit, False),
    "clip_resnet": clip(
      dict(layers=(1, 2, 1, 1), head_width=16, width=16), True
    ),
    "siglip": siglip,
    "deit": timm.create_model("deit_tiny_patch16_224", num_classes=3, **small),
    "resnet": torchvision.models.ResNet(
      torchvision.models.resnet.Bottleneck, [1, 2, 1, 1], num_classes=3
    ),
    "bert": transformers.BertModel(
      transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=CONTEXT,
        attn_implementation="eager",
      )
    ),
  }


def main() -> None:
  """Writes the files."""
  import open_clip
  import torch

  arrays: dict[str, np.ndarray] = {}
  for name, model in small_models().items():
    arrays |= record(name, model, IMAGE, CONTEXT, VOCABULARY, layers=True)
  for name in FULL:
    model = open_clip.create_model(name, pretrained=None)
    text = getattr(model, "text", model)
    vocabulary = text.token_embedding.num_embeddings
    length = text.positional_embedding.shape[0]
    with torch.no_grad():
      arrays |= record(name, model, 224, length, vocabulary, layers=False)
    del model
  np.savez_compressed(PATH, **arrays)
  write_torch_files()
  write_albef_names()
  print(f"Wrote {PATH}.")


def write_torch_files() -> None:
  """One state dict in every format of torch."""
  import torch

  class Pair(torch.nn.Module):
    """A module with a module inside."""

    def __init__(self) -> None:
      super().__init__()
      self.inner = torch.nn.Linear(3, 2)
      self.register_buffer("whole", torch.arange(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
      return self.inner(x)

  table = torch.arange(12, dtype=torch.float32).reshape(3, 4)
  state = {
    "table": torch.nn.Parameter(table),
    "turned": table.T,  # The same storage, other strides.
    "corner": table[1:, 2:],
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.zeros(0, 3),
    "half": table.half(),
    "brain": table.bfloat16(),
    "whole": torch.tensor([-1, 2]),
    "yes": torch.tensor([True, False]),
  }
  FOLDER.mkdir(exist_ok=True)
  for name, modern in (("torch.pt", True), ("legacy.pth", False)):
    torch.save(
      {"epoch": 3, "state_dict": state},
      FOLDER / name,
      _use_new_zipfile_serialization=modern,
    )
  module = Pair()
  with torch.no_grad():
    for parameter in module.parameters():
      parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape))
  torch.jit.save(torch.jit.script(module), FOLDER / "script.pt")


def write_albef_names() -> None:
  """The names of a small ALBEF's tensors, of the libraries that it is built of.

  ALBEF is timm's ViT and BERT, of whose layers the last have cross-attention.
  """
  import timm
  import transformers

  vit = timm.create_model(
    "deit_tiny_patch16_224",
    num_classes=0,
    img_size=IMAGE,
    patch_size=8,
    embed_dim=WIDTH,
    depth=2,
    num_heads=2,
  )
  bert = transformers.BertLMHeadModel(
    transformers.BertConfig(
      vocab_size=VOCABULARY + 60,
      hidden_size=WIDTH,
      num_hidden_layers=3,
      num_attention_heads=2,
      intermediate_size=4 * WIDTH,
      max_position_embeddings=CONTEXT + 2,
      is_decoder=True,
      add_cross_attention=True,
    )
  )
  shapes = {f"visual_encoder.{k}": v.shape for k, v in vit.state_dict().items()}
  for key, value in bert.state_dict().items():
    # The first layer is the text encoder's.
    if not key.startswith("bert.encoder.layer.0.crossattention"):
      shapes[f"text_encoder.{key}"] = value.shape
  for name, (out, width) in {
    "vision_proj": (EMBED, WIDTH),
    "text_proj": (EMBED, WIDTH),
    "itm_head": (2, WIDTH),
  }.items():
    shapes |= {f"{name}.weight": (out, width), f"{name}.bias": (out,)}
  shapes["temp"] = ()
  named = {key: tuple(value) for key, value in shapes.items()}
  (FOLDER / "albef_names.json").write_text(json.dumps(named, indent=0) + "\n")


def record(
  name: str, model: Any, image: int, context: int, vocabulary: int, layers: bool
) -> dict[str, np.ndarray]:
  """A model's tensors by shape, and its outputs."""
  import torch

  model.eval()
  shapes = {
    key: tuple(value.shape)
    for key, value in model.state_dict().items()
    if value.is_floating_point() and key != "attn_mask"
  }
  drawn = {key: torch.tensor(value) for key, value in weights(shapes).items()}
  model.load_state_dict(drawn, strict=False)
  images, tokens = map(torch.tensor, inputs(image, context, vocabulary))
  states: dict[str, np.ndarray] = {}

  def keep(key: str) -> Any:
    def hook(module: Any, args: Any, out: Any) -> None:
      del module, args
      out = out[0] if isinstance(out, tuple) else out
      states[key] = out.detach().numpy()

    return hook

  hooks = [m.register_forward_hook(keep(k)) for k, m in _layers(model)]
  with torch.no_grad():
    if hasattr(model, "encode_image"):
      states["image"] = model.encode_image(images, normalize=True).numpy()
      states["text"] = model.encode_text(tokens, normalize=True).numpy()
    elif hasattr(model, "embeddings"):
      model(tokens, attention_mask=(tokens != 0).long())
    else:
      model(images)
  for hook in hooks:
    hook.remove()
  if not layers:
    states = {key: states[key] for key in ("image", "text")}
  print(f"{name}: {len(shapes)} tensors, {', '.join(states)}")
  described = json.dumps(shapes)
  return {f"{name}/shapes": np.array(described)} | {
    f"{name}/{key}": value.astype(np.float32) for key, value in states.items()
  }


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
  """The blocks of a model's towers, by the place in their tower."""
  for name, module in model.named_modules():
    parent, _, last = name.rpartition(".")
    if last.isdigit() and parent.endswith(
      ("resblocks", "blocks", "encoder.layer")
    ):
      tower = "text" if _is_text(name) else "image"
      yield f"{tower}_block_{last}", module
    elif last.isdigit() and parent[:-1].endswith("layer"):
      yield f"image_stage_{int(parent[-1]) - 1}_block_{last}", module


def _is_text(name: str) -> bool:
  return name.startswith(("transformer", "text", "encoder"))


if __name__ == "__main__":
  main()
