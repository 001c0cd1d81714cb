r"""CLIP ResNet-50 on CC3M with latent structure: the second paper's rows, on a pod.

python -m experiments.train --config=structure_rn50 \
    --config.data.path=DIR --workdir=runs/structure_rn50 \
    --config.evaluation.benchmarks.data_dir=TFDS_DIR

Without a variant it is deep feature separation. The paper's other rows are variants, such
as --config=structure_rn50:bridge : clip, cyclip, bridge, consistency. Its regularisers are
added to the loss of four terms, which is the variant contrast by itself; clip and cyclip
have two.

Expected, top-1 in % (Jiang et al. 2023, tables 1 to 3; zero-shot on CIFAR-10,
CIFAR-100, ImageNet, then ImageNet-V2, -Sketch, -A, -R; mean of 14 linear probes):
  CLIP         44.95 15.05 16.72   14.11  8.61 2.81 19.07   61.05
  CyCLIP       43.22 15.09 17.77   15.25  8.30 3.27 19.85   60.14
  separation   46.61 19.37 20.21   16.78  9.22 3.45 22.06   66.73
  bridge       43.15 14.22 20.45   17.02 10.34 3.01 20.40   62.84
  consistency  56.36 22.70 20.25   17.37 10.90 3.87 23.85   64.01

Hardware: 8 chips of v5e (2x4), 3.5 of 16 GiB each, 2.4 with two terms. Compiled with
little effort, not run: how long its 1,361,920 steps take is not known. The compiler
counts bytes for 1.6 s a step, most of them for RandAugment's gathers, whose operands it
counts whole for every pixel. The variant clip sees no second view; there it is 0.015 s.
Settings: CyCLIP's, https://github.com/goel-shashank/CyCLIP, on which the paper is
built: batch 128, 64 epochs, no random crops, captions edited by EDA
(--config.other_view.synonyms=FILE adds synonyms of your own). The paper's weights,
batch size and epochs are not published. The first view of an image is plain there and
here; the second is by RandAugment here, by AutoAugment there. experiments.convert_pairs has
written DIR from the pairs. TFDS_DIR has the sets of the tables as
`tfds build NAME --file_format=array_record` makes them; missing sets are skipped, and the
run says which. Rendered SST2, one of the 14 probes, is not in TFDS, Aircraft and GTSRB
are those of the Visual Domain Decathlon, and class names of ImageNet are WordNet's first
lemmas: scores there are near the published ones, not the same.
"""

from contrastive_jax.data import benchmarks
from contrastive_jax.recipes import clip_rn50_cc3m
from contrastive_jax.training import config as config_lib

# Terms of a row of the paper, with their fields.
_ROWS = {
  "": {"separation": {"weight": 1.0}},
  "clip": {},
  "contrast": {},
  "cyclip": {"consistency": {"weight": 0.25, "augmented": 0.0, "paired": 0.0}},
  "bridge": {"bridge": {"weight": 1.0}},
  "consistency": {"consistency": {"weight": 0.25}},
}
# Their rows are of others' methods, whose loss has two terms.
_TWO_TERMS = ("clip", "cyclip")
_PAIRS = 2_723_840
_EPOCHS = 64
_WARMUP = 10_000


def get_config(variant: str = "") -> config_lib.ConfigDraft:
  """The recipe; a variant is a row of the paper, "" is separation."""
  if variant not in _ROWS:
    raise ValueError(
      f"variant must be one of {', '.join(filter(None, _ROWS))} or none; got"
      f" {variant!r}."
    )
  # The data and the towers are the same.
  config = clip_rn50_cc3m.get_config()
  config.batch_size = 128
  config.steps = _EPOCHS * _PAIRS // config.batch_size
  config.log_every = 100
  config.checkpoint_every = 5000
  config.model.remat = False
  config.augment.random_resized_crop = False
  config.augment.randaugment_num_ops = 2
  config.loss = "clip" if variant in _TWO_TERMS else "clip_four_term"
  config.structure.first_view = "plain"
  config.structure.terms = _ROWS[variant]
  config.optimizer.learning_rate = 5e-4
  config.optimizer.warmup_share = _WARMUP / config.steps
  config.evaluation = (*config.evaluation.evaluators, "benchmarks")
  config.evaluation.retrieval.every = 20_000
  config.evaluation.benchmarks.sets = tuple(benchmarks.BENCHMARKS)
  # Separation alone gives the towers a second head.
  for evaluator in ("classification", "benchmarks"):
    config.evaluation.evaluators[evaluator].concatenated = (
      "separation" in _ROWS[variant]
    )
  return config
