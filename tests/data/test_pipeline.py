"""Batches: shuffled by seed, the same on any hosts, resumable to the bit."""

import collections
import itertools
import pickle

import numpy as np
import pytest

from contrastive_jax.data import pipeline, sources
from contrastive_jax.data.sets.emoji import PROMPTS
from contrastive_jax.data.text import tokenizer as tokenizer_lib

SIZE = 23  # No batch size below divides it: batches straddle epochs.
LENGTH = 12


def caption(text, kind="name", language="en"):
  return sources.Caption(text, kind, language)


@pytest.fixture(name="source", scope="module")
def fixture_source():
  images = np.arange(SIZE, dtype=np.uint8)[:, None, None, None]
  records = [
    {
      "index": 1000 + i,
      "concept_id": i // 2,
      "captions": tuple(caption(f"{i} {word}") for word in "abcdefgh"),
      "label": "",
    }
    for i in range(SIZE)
  ]
  return sources.ArraySource(np.tile(images, (1, 4, 4, 3)), records)


@pytest.fixture(name="tokenizer", scope="module")
def fixture_tokenizer():
  texts = [f"{i} a" for i in range(SIZE)]
  return tokenizer_lib.Tokenizer.train(texts, vocab_size=280)


@pytest.fixture(name="make")
def fixture_make(source, tokenizer):
  def make(**options):
    options = {
      "source": source,
      "tokenizer": tokenizer,
      "sampler": pipeline.CaptionSampler({"en": 1.0}),
      "context_length": LENGTH,
      "batch_size": 8,
      "seed": 0,
      **options,
    }
    return pipeline.train_batches(options.pop("source"), **options)

  return make


def take(iterator, count):
  return list(itertools.islice(iterator, count))


def assert_same(left, right):
  assert len(left) == len(right)
  for a, b in zip(left, right):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def indices(batches):
  return np.concatenate([b["index"] for b in batches]) - 1000


def test_batch_fields(make, source, tokenizer):
  (batch,) = take(make(batch_size=5), 1)
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
    "image": ((5, 4, 4, 3), np.uint8),
    "tokens": ((5, 1, LENGTH), np.int32),
    "index": ((5,), np.int64),
    "concept_id": ((5,), np.int32),
  }
  # All fields of a row are of one record.
  for row in range(5):
    record = source[int(batch["index"][row]) - 1000]
    np.testing.assert_array_equal(batch["image"][row], record["image"])
    assert batch["concept_id"][row] == record["concept_id"]
    text = tokenizer.decode(batch["tokens"][row, 0])
    assert text in [c.text for c in record["captions"]]


def test_same_seed_same_batches(make):
  assert_same(take(make(seed=3), 9), take(make(seed=3), 9))


@pytest.mark.parametrize("num_threads", [0, 1, 5])
def test_threads_change_nothing(make, num_threads):
  assert_same(take(make(num_threads=num_threads), 9), take(make(), 9))


def test_seeds_differ(make):
  orders = [indices(take(make(seed=seed), 12)) for seed in range(4)]
  for a, b in itertools.combinations(orders, 2):
    # By chance, one place in 23 agrees.
    assert np.mean(a == b) < 0.25
    # Nor is one seed's next epoch another's first.
    assert np.mean(a[SIZE : 2 * SIZE] == b[:SIZE]) < 0.4


def test_every_epoch_is_a_new_permutation(make):
  epochs = indices(take(make(), SIZE)).reshape(8, SIZE)
  for epoch in epochs:
    assert sorted(epoch) == list(range(SIZE))
  assert len({tuple(epoch) for epoch in epochs}) == 8
  assert not any((epoch == np.arange(SIZE)).all() for epoch in epochs)


def test_captions_are_drawn_anew_each_epoch(make, tokenizer):
  texts = collections.defaultdict(set)
  for batch in take(make(), SIZE * 2):
    for index, tokens in zip(batch["index"], batch["tokens"][:, 0]):
      texts[int(index)].add(tokenizer.decode(tokens))
  # 16 draws of 8 captions: fewer than 4 distinct are one case in 100,000.
  assert len(texts) == SIZE
  assert min(map(len, texts.values())) >= 4


@pytest.mark.parametrize(
  "options",
  [{}, {"captions_per_example": 3}, {"images_per_concept": 2}],
  ids=str,
)
@pytest.mark.parametrize("hosts", [2, 4])
def test_batches_do_not_depend_on_hosts(make, hosts, options):
  options = {**options, "seed": 5}
  whole = take(make(**options), 9)
  parts = [
    take(make(process_index=i, process_count=hosts, **options), 9)
    for i in range(hosts)
  ]
  assert parts[0][0]["index"].shape == (8 // hosts,)
  joined = [
    {k: np.concatenate([p[k] for p in step]) for k in step[0]}
    for step in zip(*parts)
  ]
  assert_same(joined, whole)


@pytest.mark.parametrize("num_threads", [0, 3])
@pytest.mark.parametrize("done", [0, 1, 4])
def test_resumes_in_mid_epoch(make, done, num_threads):
  options = {"captions_per_example": 2, "num_threads": num_threads}
  first = make(**options)
  take(first, done)
  # Threads have read ahead by now; what they read was not delivered.
  state = pickle.loads(pickle.dumps(first.get_state()))
  rest = take(first, 7)
  second = make(**options)
  second.set_state(state)
  assert_same(take(second, 7), rest)
  # Also backwards, in an iterator that was used.
  first.set_state(state)
  assert_same(take(first, 7), rest)


def test_resumes_on_another_number_of_hosts(make):
  whole = make()
  take(whole, 3)
  halves = [make(process_index=i, process_count=2) for i in range(2)]
  for half in halves:
    half.set_state(whole.get_state())
  rows = [np.concatenate([next(h)["index"] for h in halves]) for _ in range(5)]
  np.testing.assert_array_equal(rows, [b["index"] for b in take(whole, 5)])


def test_reading_the_state_changes_nothing(make):
  iterator = make()
  seen = []
  for _ in range(6):
    iterator.get_state()
    seen.append(next(iterator))
  assert_same(seen, take(make(), 6))


class Known:
  """Features that say which row of a source, and which text, they are of."""

  images = np.stack([np.arange(SIZE), -np.arange(SIZE)], 1).astype(np.float32)

  def of_texts(self, texts, length):
    rows = [[len(text), ord(text[-1]), length] for text in texts]
    return np.array(rows, np.float32)


@pytest.mark.parametrize("images", [1, 2])
def test_features_are_in_the_place_of_images_and_tokens(
  make, source, tokenizer, images
):
  class Blind(sources.ArraySource):
    def __getitem__(self, index):
      raise AssertionError("An image is decoded.")

  options = {"captions_per_example": 2, "images_per_concept": images}
  blind = Blind(source.images, source.records)
  found = take(make(source=blind, features=Known(), **options), 5)
  for batch, plain in zip(found, take(make(**options), 5), strict=True):
    image, text = batch.pop("image_features"), batch.pop("text_features")
    assert image.dtype == text.dtype == np.float32
    np.testing.assert_array_equal(image, Known.images[plain["index"] - 1000])
    texts = [
      tokenizer.decode(row) for row in plain.pop("tokens").reshape(16, -1)
    ]
    known = Known().of_texts(texts, LENGTH).reshape(8, 2, 3)
    np.testing.assert_array_equal(text, known)
    del plain["image"]
    assert_same([batch], [plain])


def test_two_captions_per_example(make, source, tokenizer):
  batches = take(make(captions_per_example=2), SIZE)
  assert batches[0]["tokens"].shape == (8, 2, LENGTH)
  equal = []
  for batch in batches:
    for i, (first, second) in zip(batch["index"], batch["tokens"]):
      own = [c.text for c in source[int(i) - 1000]["captions"]]
      texts = tokenizer.decode(first), tokenizer.decode(second)
      assert set(texts) <= set(own)
      equal.append(texts[0] == texts[1])
  # The draws are independent: 1 in 8 agrees; the deviation of 184 is 0.024.
  assert abs(np.mean(equal) - 1 / 8) < 0.1


def test_the_first_of_several_captions_is_in_the_main_language(make):
  records = [
    {
      "index": 0,
      "concept_id": 0,
      "captions": (caption("en"), caption("de", language="de")),
      "label": "",
    }
  ]
  source = sources.ArraySource(np.zeros((1, 2, 2, 3), np.uint8), records)
  tokenizer = tokenizer_lib.Tokenizer.train(["en", "de"], vocab_size=280)
  texts = [collections.Counter() for _ in range(3)]
  for batch in take(
    make(
      source=source,
      tokenizer=tokenizer,
      sampler=pipeline.CaptionSampler({"en": 0.3, "de": 0.7}),
      captions_per_example=3,
    ),
    30,
  ):
    for row in batch["tokens"]:
      for found, tokens in zip(texts, row, strict=True):
        found[tokenizer.decode(tokens)] += 1
  assert texts[0] == {"en": 240}
  for found in texts[1:]:
    # The deviation of 240 draws is 7.
    assert abs(found["de"] - 168) < 35 and found["en"] == 240 - found["de"]


@pytest.mark.parametrize("images", [2, 4])
def test_neighbours_show_one_concept(make, images):
  batches = take(make(images_per_concept=images), 3 * SIZE)
  concepts = np.concatenate([b["concept_id"] for b in batches])
  grouped = concepts.reshape(-1, images)
  assert (grouped == grouped[:, :1]).all()
  rows = indices(batches).reshape(-1, images)
  np.testing.assert_array_equal(rows // 2, grouped)
  # Concept i holds rows 2i and 2i + 1, but the last one, which is alone.
  alone = rows[:, 0] == SIZE - 1
  assert alone.any() and (rows[alone] == SIZE - 1).all()
  assert (rows[~alone, 0] != rows[~alone, 1]).all()
  # Every example leads equally often.
  epochs = 3 * SIZE * 8 // images // SIZE
  leads = rows[: epochs * SIZE, 0]
  assert np.bincount(leads, minlength=SIZE).tolist() == [epochs] * SIZE


def test_source_smaller_than_a_batch(make, source):
  few = sources.ArraySource(source.images[:3], source.records[:3])
  batches = take(make(source=few), 3)
  counts = np.bincount(indices(batches), minlength=3)
  assert counts.tolist() == [8, 8, 8]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"batch_size": 0}, "^batch_size .*got 0"),
    ({"batch_size": -8}, "^batch_size .*got -8"),
    ({"batch_size": 9, "process_count": 2}, "^batch_size .*2 x 1; got 9"),
    (
      {"process_index": 2, "process_count": 2},
      r"^process_index .*\[0, 2\); got 2",
    ),
    ({"process_count": 0}, "^process_index "),
    ({"images_per_concept": 3}, "images_per_concept .*1 x 3; got 8"),
    ({"images_per_concept": 0}, "^images_per_concept .*got 0"),
    ({"captions_per_example": 0}, "^captions_per_example .*got 0"),
    ({"source": sources.ArraySource(np.zeros((0, 1, 1, 3)), [])}, "^source "),
  ],
)
def test_errors(make, options, message):
  with pytest.raises(ValueError, match=message):
    make(**options)


def test_error_in_a_record_reaches_the_caller(make, source):
  class Broken(sources.ArraySource):
    def __getitem__(self, index):
      if index == 7:
        raise RuntimeError("record 7 cannot be read")
      return super().__getitem__(index)

  broken = Broken(source.images, source.records)
  with pytest.raises(RuntimeError, match="record 7 cannot be read"):
    take(make(source=broken), SIZE)


CAPTIONS = (
  caption("cat"),
  caption("pet", "keyword"),
  caption("fur", "keyword"),
  caption("paw", "keyword"),
  caption("Katze", language="de"),
  caption("Tier", "keyword", "de"),
  caption("猫", language="ja"),
)


def draw(count, captions=CAPTIONS, **options):
  sampler = pipeline.CaptionSampler(**options)
  rng = np.random.default_rng(0)
  return collections.Counter(sampler(captions, rng) for _ in range(count))


def assert_shares(counts, shares):
  """Chi-square: no more than 5 deviations above its mean."""
  assert counts.keys() == shares.keys()
  count, total = sum(counts.values()), sum(shares.values())
  expected = {k: count * v / total for k, v in shares.items()}
  chi = sum((counts[k] - e) ** 2 / e for k, e in expected.items())
  freedom = max(len(shares) - 1, 1)
  assert chi < freedom + 5 * (2 * freedom) ** 0.5, (counts, expected)


def test_languages_by_weight():
  counts = draw(4000, languages={"en": 5, "de": 2, "ja": 1, "fr": 9})
  assert_shares(counts, {"cat": 5, "Katze": 2, "猫": 1})


def test_unlisted_language_only_where_there_is_no_other():
  assert draw(200, languages={"de": 1.0}).keys() == {"Katze"}
  assert draw(200, languages={"de": 1.0, "en": 0.0}).keys() == {"Katze"}
  assert draw(50, languages={"fr": 1.0}).keys() == {"cat"}


def test_kinds_by_weight():
  counts = draw(
    6000,
    languages={"en": 1.0},
    name=3,
    keyword=2,
    keywords=1,
    prompt=4,
    prompts=PROMPTS,
  )
  kinds = collections.Counter()
  for text, number in counts.items():
    if ", " in text:
      kinds["keywords"] += number
    elif text in ("pet", "fur", "paw"):
      kinds["keyword"] += number
    elif text == "cat":
      kinds["cat"] += number
    else:
      kinds["in a prompt"] += number
  # One prompt in five is the bare name.
  assert_shares(
    kinds, {"cat": 3 + 0.8, "keyword": 2, "keywords": 1, "in a prompt": 3.2}
  )


@pytest.mark.parametrize(
  "prompts", [PROMPTS, sources.PHOTO_PROMPTS, ("my {}!",)]
)
def test_prompts_are_equally_likely(prompts):
  counts = draw(
    4000, languages={"en": 1.0}, name=0.0, prompt=1.0, prompts=prompts
  )
  assert_shares(counts, {p.format("cat"): 1 for p in prompts})


def test_single_keywords_are_equally_likely():
  counts = draw(3000, languages={"en": 1.0}, name=0.0, keyword=1.0)
  assert_shares(counts, {"pet": 1, "fur": 1, "paw": 1})


def test_several_keywords_in_random_order():
  counts = draw(6000, languages={"en": 1.0}, name=0.0, keywords=1.0)
  # Two in one case of three; all three where three or four are asked for.
  words = ("pet", "fur", "paw")
  shares = {", ".join(p): 1 / 18 for p in itertools.permutations(words, 2)}
  shares |= {", ".join(p): 2 / 18 for p in itertools.permutations(words)}
  assert_shares(counts, shares)


def test_full_captions_are_a_name_with_keywords_in_random_order():
  counts = draw(6000, languages={"en": 1.0}, name=0.0, full=1.0)
  assert all("cat" in text.split(", ") for text in counts)
  lengths = collections.Counter(
    len(text.split(", ")) for text in counts.elements()
  )
  assert_shares(lengths, {2: 1, 3: 1, 4: 1})
  # All orders of the longest are there, and equally often.
  longest = {t: n for t, n in counts.items() if t.count(",") == 3}
  words = ("cat", "pet", "fur", "paw")
  orders = {", ".join(p): 1 for p in itertools.permutations(words)}
  assert_shares(longest, orders)


def test_full_caption():
  assert (
    pipeline.full_caption("lion", ["big cat", "zoo"]) == "lion, big cat, zoo"
  )
  assert pipeline.full_caption("lion", []) == "lion"


def test_kinds_that_an_example_lacks_are_left_out():
  # Japanese has no keywords, and only English names go into prompts.
  options = {"keyword": 1.0, "keywords": 1.0, "prompt": 1.0}
  only = {"languages": {"ja": 1.0}, **options}
  assert draw(100, name=1.0, **only).keys() == {"猫"}
  assert draw(100, name=1.0, full=9.0, **only).keys() == {"猫"}
  assert draw(100, name=0.0, **only).keys() == {"猫"}
  keywords = (caption("pet", "keyword"),)
  counts = draw(50, keywords, languages={"en": 1.0}, prompt=1.0)
  assert counts.keys() == {"pet"}


def test_captions_of_no_stated_language_go_into_prompts():
  captions = (caption("my cup {}", language=sources.ANY_LANGUAGE),)
  counts = draw(
    300,
    captions,
    languages={"": 1.0},
    name=0.0,
    prompt=1.0,
    prompts=sources.PHOTO_PROMPTS,
  )
  assert counts.keys() == {"my cup {}", "a photo of my cup {}"}


def test_several_names_are_equally_likely():
  captions = (caption("a cup"), caption("mug"), caption("a cup on a table"))
  counts = draw(3000, captions, languages={"en": 1.0})
  assert_shares(counts, {c.text: 1 for c in captions})


@pytest.mark.parametrize("batch_size", [5, 23, 64])
def test_eval_images(source, batch_size):
  batches = list(pipeline.eval_images(source, batch_size))
  assert len(batches) == -(-SIZE // batch_size)
  for images, rows in batches:
    assert images.shape == (batch_size, 4, 4, 3)
    assert images.dtype == np.uint8
    assert not images[rows:].any()
  kept = np.concatenate([images[:rows] for images, rows in batches])
  np.testing.assert_array_equal(kept, source.images)
  assert [rows for _, rows in batches[:-1]] == [batch_size] * (len(batches) - 1)


def test_eval_images_of_an_empty_source(source):
  empty = sources.ArraySource(source.images[:0], [])
  assert list(pipeline.eval_images(empty, 4)) == []


def test_listed_captions_are_as_evaluation_has_them():
  captions = [
    caption("lion"),
    caption("zoo", "keyword"),
    caption("cat", "keyword"),
  ]
  sampler = pipeline.CaptionSampler({"en": 1.0}, name=0.0, listed=1.0)
  rng = np.random.default_rng(0)
  assert {sampler(captions, rng) for _ in range(9)} == {"lion, zoo, cat"}
  assert sampler(captions[:1], rng) == "lion"
