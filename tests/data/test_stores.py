"""Object stores, by fsspec's memory and files in their place."""

import json
import shutil

import fsspec
import pytest

import contrastive_jax
from contrastive_jax.data.files import prepare, stores
from contrastive_jax.programs import embed
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.runs import runner
from tests.inference import tiny_model
from tests.programs import calling
from tests.training import tiny

ADDRESS = "memory://bucket/place"


def quiet(line):
  del line


@pytest.fixture(name="store", autouse=True)
def fixture_store(tmp_path, monkeypatch):
  """A store in memory, and a cache of its own."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  tiny.use_devices(monkeypatch, 1)
  found = fsspec.filesystem("memory")
  found.store.clear()
  found.pseudo_dirs[:] = [""]
  return found


def names(store, root="/bucket/place"):
  return {path.removeprefix(root).lstrip("/") for path in store.find(root)}


def test_paths_of_this_host_stay_as_they_are(tmp_path):
  for path in ("a/b", "/c", "~/d", "C:/e", ""):
    assert stores.local(path) == path and not stores.is_address(path)
  with stores.writable(str(tmp_path / "new")) as place:
    place.push()
    assert place.local == tmp_path / "new"
  assert not (prepare.data_dir() / "stores").exists()


def test_a_copy_follows_the_store(store, monkeypatch):
  store.pipe({"/bucket/place/a": b"1", "/bucket/place/deep/b": b"22"})
  fetched = []
  get_file = type(store).get_file

  def counting(self, there, here, **options):
    fetched.append(there)
    return get_file(self, there, here, **options)

  monkeypatch.setattr(type(store), "get_file", counting)
  root = prepare.pathlib.Path(stores.local(ADDRESS, quiet))
  assert (root / "a").read_bytes() == b"1"
  assert (root / "deep" / "b").read_bytes() == b"22"
  assert len(fetched) == 2
  assert stores.local(f"{ADDRESS}/", quiet) == str(root)
  assert len(fetched) == 2
  store.pipe("/bucket/place/a", b"333")
  store.rm_file("/bucket/place/deep/b")
  stores.local(ADDRESS, quiet)
  assert (root / "a").read_bytes() == b"333"
  assert not (root / "deep" / "b").exists() and len(fetched) == 3
  # A copy that somebody changed is made anew.
  (root / "a").write_bytes(b"444")
  stores.local(ADDRESS, quiet)
  assert (root / "a").read_bytes() == b"333" and len(fetched) == 4


def test_one_file(store):
  store.pipe("/bucket/weights.npz", b"1")
  path = prepare.pathlib.Path(
    stores.local("memory://bucket/weights.npz", quiet)
  )
  assert path.name == "weights.npz" and path.read_bytes() == b"1"


def test_what_is_written_goes_back(store):
  store.pipe({"/bucket/place/old": b"1", "/bucket/place/kept": b"2"})
  with stores.writable(ADDRESS, quiet) as place:
    assert (place.local / "old").read_bytes() == b"1"
    (place.local / "old").unlink()
    (place.local / "new" / "er").mkdir(parents=True)
    (place.local / "new" / "er" / "x").write_bytes(b"3")
    (place.local / "run.lock").write_bytes(b"mine")
    place.push()
    assert names(store) == {"kept", "new/er/x"}
    # What another process wrote there meanwhile stays.
    store.pipe("/bucket/place/other", b"4")
    (place.local / "kept").write_bytes(b"22")
  assert names(store) == {"kept", "new/er/x", "other"}
  assert store.cat("/bucket/place/kept") == b"22"


def test_what_was_written_goes_back_after_an_error(store):
  with pytest.raises(ZeroDivisionError):
    with stores.writable(ADDRESS, quiet) as place:
      (place.local / "x").write_bytes(b"3")
      raise ZeroDivisionError
  assert names(store) == {"x"}


def test_a_second_writer_is_refused(store):
  with stores.writable(ADDRESS, quiet):
    with pytest.raises(stores.StoreError, match="process"):
      with stores.writable(ADDRESS, quiet):
        pass


@pytest.mark.parametrize(
  "address, named",
  [
    ("memory://bucket/nothing", "holds nothing"),
    ("memory://bucket/*.tar", "pattern"),
    ("nowhere://bucket", "nowhere"),
  ],
)
def test_mistakes_are_named(address, named):
  with pytest.raises(stores.StoreError, match=named):
    stores.local(address, quiet)


def test_errors_of_a_store_are_told(store, monkeypatch):
  store.pipe("/bucket/place/a", b"1")

  def fail(self, *args, **options):
    raise RuntimeError("403 Forbidden")

  monkeypatch.setattr(type(store), "get_file", fail)
  with pytest.raises(stores.StoreError, match="bucket/place.*403"):
    stores.local(ADDRESS, quiet)


@pytest.mark.parametrize("name", ["../b", "deep/../../b", "/etc/b", "./b"])
def test_names_that_lead_elsewhere_are_refused(store, monkeypatch, name):
  store.pipe("/bucket/place/a", b"1")
  find = type(store).find

  def more(self, path, **options):
    there = f"{path}/{name}"
    return find(self, path, **options) | {there: {"size": 1, "name": there}}

  monkeypatch.setattr(type(store), "find", more)
  with pytest.raises(stores.StoreError, match="elsewhere"):
    stores.local(ADDRESS, quiet)


def test_a_copy_that_is_gone_empties_no_store(store):
  store.pipe("/bucket/place/a", b"1")
  with pytest.raises(stores.StoreError, match="is gone"):
    with stores.writable(ADDRESS, quiet) as place:
      shutil.rmtree(place.local)
  assert names(store) == {"a"}


def test_a_disk_that_is_too_small_is_told(store, monkeypatch):
  store.pipe("/bucket/place/a", b"12345")
  usage = shutil.disk_usage("/")._replace(free=4)
  monkeypatch.setattr(stores.shutil, "disk_usage", lambda path: usage)
  with pytest.raises(stores.StoreError, match="XDG_CACHE_HOME"):
    stores.local(ADDRESS, quiet)


def test_a_run_from_its_data_to_its_model(store, tmp_path, monkeypatch):
  """The host forgets everything in between: another one goes on."""
  images = tiny.write_folder(tmp_path / "images", 24)
  store.put(f"{images}/", "/bucket/images", recursive=True)
  shutil.rmtree(images)

  def train(steps, saved=lambda: None):
    config = tiny.make_config(
      data="folder",
      data__path="memory://bucket/images",
      data__vocab_size=tiny.VOCABULARY,
      steps=steps,
      checkpoint_every=2,
      evaluation__plots=False,
    )
    lines = []
    with stores.writable("memory://bucket/run", quiet) as place:

      def push():
        place.push()
        saved()

      runner.train(config, place.local, report=lines.append, saved=push)
    return lines

  def stop():
    assert any("checkpoints/2/" in x for x in names(store, "/bucket/run"))
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    train(4, stop)
  shutil.rmtree(tmp_path / "cache")
  assert any("at step 2" in line for line in train(4))
  assert "results.json" in names(store, "/bucket/run")
  config = json.loads(store.cat("/bucket/run/config.json"))
  assert config["data"]["path"] == "memory://bucket/images"
  shutil.rmtree(tmp_path / "cache")
  model = contrastive_jax.load("memory://bucket/run")
  pictures = tiny_model.pictures(tmp_path / "pictures", 3)
  assert model.encode_image(pictures).shape == (3, 16)
  calling.run(
    monkeypatch,
    embed,
    model="memory://bucket/run",
    inputs=[str(tmp_path / "pictures")],
    out="memory://bucket/embedded",
  )
  found = names(store, "/bucket/embedded")
  assert found == {"000000.parquet", "embeddings.json"}


def test_a_workdir_is_no_address_in_python():
  with pytest.raises(workdirs.WorkdirError, match="writable"):
    runner.train(tiny.make_config(), "memory://bucket/run", report=quiet)
