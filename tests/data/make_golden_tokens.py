"""Writes the token ids of other libraries for texts that are hard to cut.

python -m tests.data.make_golden_tokens

Needs open-clip-torch and transformers; the tests need the file alone.
"""

import json
import pathlib
import tempfile

PATH = pathlib.Path(__file__).parent / "golden_tokens.json"
LENGTH = 24
TEXTS = (
  "",
  " ",
  "a photo of a cat.",
  "A Photo  of\ta CAT,\nsitting!",
  "it's the dog's; they've we'll I'm you'd can't",
  "don’t “quote” me – ever…",
  "3.14 is 22/7, 1000000 times",
  "naïve café, ÅNGSTRÖM, Straße, İstanbul",
  "cafe\u0301 and ﬁne ligatures",
  "🙂 emoji 👩‍👩‍👧‍👦 in 🇫🇷 text 👍🏽",
  "日本語のテキスト 한국어 中文字符",
  "русский текст, עברית, العربية",
  "ｆｕｌｌｗｉｄｔｈ １２３",
  "&lt;b&gt; &amp;amp; &quot;html&quot;",
  "schÃ¶n broken encoding",
  "under_score snake_case, a/b\\c #tag @name $5 50% x^2",
  "zero\u200bwidth\u00a0space soft\u00adhyphen",
  "a" * 300,
  "the quick brown fox jumps over the lazy dog " * 10,
  "x\u0000y control \u0007 bell",
)
# Word pieces for BERT, of which many of the texts are unknown.
PIECES = (
  *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
  *"abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"-&$%#@/\\^()<>_…“”’–日語中文",
  *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"),
  *("the", "photo", "cat", "quick", "brown", "fox", "##ing", "text", "of"),
)


def main() -> None:
  """Writes the file."""
  import open_clip
  import transformers

  clip = open_clip.SimpleTokenizer(context_length=LENGTH)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    bert = transformers.BertTokenizer(str(path))
    rows = bert(
      list(TEXTS), padding="max_length", truncation=True, max_length=LENGTH
    )["input_ids"]
  tokens = {"clip": clip(list(TEXTS)).tolist(), "bert": rows}
  PATH.write_text(json.dumps(tokens) + "\n")
  print(f"Wrote {PATH}.")


if __name__ == "__main__":
  main()
