"""Dataset configs: the same batches as folders that say the same, several datasets, and a sentence for each mistake."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st

from tests import trainings
from tests.data.made import tiny_vae, write
from tests.tiny import tiny_sd15
from trainer import check
from trainer.checks import notes, of_pictures, pictures
from trainer.data import config
from trainer.data.dataset import scan
from trainer.data.loader import Batch, Batches
from trainer.formats import read_metadata
from trainer.plan import make_plan
from trainer.report import Reporter
from trainer.settings import Settings, kohya

MODEL: Any = SimpleNamespace(vae=tiny_vae())


@pytest.fixture
def img(tmp_path: Path) -> Path:
    write(tmp_path / "img" / "3_cat", a=(64, 64), b=(80, 48), c=(64, 64))
    write(tmp_path / "img" / "1_dog", d=(48, 80), e=(64, 64))
    for name, text in {"a": "a cat, grey, sitting, tired", "b": "a cat, black, standing, awake"}.items():
        (tmp_path / "img" / "3_cat" / f"{name}.txt").write_text(text)
    write(tmp_path / "reg" / "1_animal", r1=(64, 64), r2=(64, 64))
    return tmp_path / "img"


def written(folder: Path, text: str, name: str = "data.toml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def settings(file: Path, **values: object) -> Settings:
    small = {"max_resolution": "64,64", "bucket_reso_steps": 8, "seed": 3, "dataset_config": str(file)}
    return Settings(**{**small, **values})


def epochs(s: Settings, report: Reporter, count: int = 2) -> list[Batch]:
    with Batches(s, scan(s), MODEL, report, "cpu") as source:
        return [batch for number in range(1, count + 1) for batch in source.epoch(number)]


FOLDERS = """
[general]
shuffle_caption = true
[[datasets]]
resolution = 64
batch_size = 2
bucket_reso_steps = 8
  [[datasets.subsets]]
  image_dir = "img/1_dog"
  class_tokens = "dog"
  [[datasets.subsets]]
  image_dir = "img/3_cat"
  class_tokens = "cat"
  num_repeats = 3
  [[datasets.subsets]]
  image_dir = "reg/1_animal"
  class_tokens = "animal"
  is_reg = true
"""
"""What the folders of the fixture say, as a dataset config."""


def test_folders_and_the_config_that_says_the_same_give_the_same_bits(report: Reporter, img: Path) -> None:
    one = settings(written(img.parent, FOLDERS), flip_aug=True, prior_loss_weight=0.5)
    other = one.changed(
        dataset_config="", train_data_dir=str(img), reg_data_dir=str(img.parent / "reg"), train_batch_size=2,
        shuffle_caption=True,
    )  # fmt: skip
    assert make_plan(one, scan(one)) == make_plan(other, scan(other))
    found, expected = epochs(one, report), epochs(other, report)
    assert len(found) == len(expected) > 10
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine.latents, theirs.latents)
        assert torch.equal(mine.loss_weights, theirs.loss_weights)
        assert mine.captions == theirs.captions
        assert [picture.path for picture in mine.pictures] == [picture.path for picture in theirs.pictures]


TWO = """
[general]
flip_aug = true
caption_dropout_rate = 0.0
[[datasets]]
resolution = [64, 64]
batch_size = 2
[[datasets.subsets]]
image_dir = "img/3_cat"
keep_tokens = 1
[[datasets.subsets]]
image_dir = "img/1_dog"
flip_aug = false
[[datasets]]
resolution = "96x96"
batch_size = 3
enable_bucket = false
[[datasets.subsets]]
image_dir = "img/3_cat"
num_repeats = 2
class_tokens = "large"
"""


def test_datasets_have_their_own_sizes_and_batches(report: Reporter, img: Path) -> None:
    s = settings(written(img.parent, TWO), bucket_reso_steps=32, bucket_no_upscale=False, min_bucket_reso=64)
    dataset = scan(s)
    found = epochs(s, report, 1)
    plan = make_plan(s, dataset)
    assert (plan.images, plan.repeated, plan.batches_per_epoch, plan.batch) == (8, 11, len(found), 3)
    assert plan.buckets["96x96"] == 6
    assert "batches of 2 and 3" in plan.sentence
    for batch in found:
        (number,) = {picture.dataset for picture in batch.pictures}
        assert batch.size <= (2, 3)[number]
        assert number == 0 or batch.latents.shape[2:] == (12, 12)
    large = [caption for batch in found for picture, caption in zip(batch.pictures, batch.captions, strict=True)
             if picture.dataset == 1 and picture.path.stem == "c"]  # fmt: skip
    assert large == ["large"] * 2


def test_values_fall_back_from_subset_to_dataset_to_general_to_the_page(img: Path) -> None:
    s = settings(written(img.parent, TWO), caption_extension=".cap", caption_dropout_rate=0.5)
    cats, dogs, large = (subset.under(s) for subset in scan(s).subsets)
    assert (cats.keep_tokens, dogs.keep_tokens) == (1, 0)
    assert (cats.flip_aug, dogs.flip_aug, large.flip_aug) == (True, False, True)
    assert {own.caption_dropout_rate for own in (cats, dogs, large)} == {0.0}
    assert {own.caption_extension for own in (cats, dogs, large)} == {".cap"}
    assert [own.max_resolution for own in (cats, dogs, large)] == ["64,64", "64,64", "96,96"]
    assert [own.train_batch_size for own in (cats, dogs, large)] == [2, 2, 3]


def test_regularisation_is_balanced_within_its_dataset(img: Path) -> None:
    text = FOLDERS + '[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "img/1_dog"\n'
    s = settings(written(img.parent, text))
    shown = scan(s).repeated()
    assert sum(count for picture, count in shown if picture.is_reg) == 3 * 3 + 2
    assert [count for picture, count in shown if picture.dataset == 1] == [1, 1]


def test_json_says_the_same_as_toml(img: Path) -> None:
    tables = {"datasets": [{"resolution": 64, "subsets": [{"image_dir": "img/3_cat", "num_repeats": 4}]}]}
    s = settings(written(img.parent, json.dumps(tables), "data.json"))
    assert [problem for check in (pictures, of_pictures) for problem in check(s)] == []
    assert make_plan(s, scan(s)).repeated == 12


def test_the_check_command_counts_from_it(img: Path) -> None:
    values = {"dataset_config": str(written(img.parent, TWO)), "min_bucket_reso": 64, "epoch": 2, "max_train_steps": 0}
    answer = check.report(kohya.read(values), {})
    assert [item for item in answer["problems"] if item["key"] in ("dataset_config", "train_data_dir")] == []
    assert (answer["plan"]["images"], answer["plan"]["repeated"], answer["plan"]["epochs"]) == (8, 11, 2)
    assert answer["plan"]["steps"] == 2 * answer["plan"]["batches_per_epoch"]
    broken = check.report(kohya.read({**values, "dataset_config": str(img / "none.toml")}), {})
    assert {
        "key": "dataset_config",
        "label": "Dataset config file",
        "message": f"there is no file {img / 'none.toml'}.",
    } in (broken["problems"])


def test_a_folder_is_looked_for_beside_the_file_then_from_here(img: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (img.parent / "configs").mkdir()
    file = written(img.parent / "configs", '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "img/3_cat"\n')
    assert "there is no folder" in str(next(config.problems(settings(file))))
    monkeypatch.chdir(img.parent)
    assert list(config.problems(settings(file))) == []
    assert config.folders(str(file)) == [img / "3_cat"]
    write(img.parent / "configs" / "img" / "3_cat", z=(64, 64))
    assert [picture.path.stem for picture in scan(settings(file)).pictures] == ["z"]


def subset(lines: str) -> str:
    return f'[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "img/3_cat"\n{lines}\n'


WRONG = {
    "[[datasets]\n": "data.toml is not valid TOML: .*at line 1",
    "": r"has no \[\[datasets\]\]",
    "[generals]\n": r"no \[generals\] in a dataset config; did you mean general\?",
    'network_dim = 8\nlearning_rate = "1e-4"': "holds training settings.*load it as a preset",
    "datasets = 3": r"\[\[datasets\]\] must be tables in double brackets",
    "[[datasets]]\nresolution = 64": r"\[\[datasets\]\] 1 has no \[\[datasets.subsets\]\]",
    "[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 2": "subset 1: image_dir is missing",
    subset("keep_token = 1"): r"subset 1: there is no keep_token; did you mean keep_tokens\?",
    subset('keep_tokens = "many"'): "keep_tokens must be a number; 'many' is not one",
    subset("caption_dropout_rate = 2"): "caption_dropout_rate must be at least 0 and at most 1; 2.* is not",
    subset("flip_aug = 3"): "flip_aug is a tick",
    subset("num_repeats = 1.5"): "num_repeats must be a whole number; 1.5",
    subset("num_repeats = inf"): "num_repeats must be a whole number",
    subset("class_tokens = 3"): "class_tokens is a text",
    subset('is_reg = "no"'): "is_reg is true or false",
    subset("is_reg = true"): "every subset is for regularisation",
    subset("resolution = 64"): r"resolution belongs into \[\[datasets\]\] or \[general\]",
    subset("learning_rate = 1.0"): "the same for all pictures; set Learning rate on the page",
    subset('metadata_file = "m.json"'): "metadata_file is not offered here; captions stand in files beside",
    subset("face_crop_aug_range = [2.0, 4.0]"): "not offered here; crop the pictures yourself",
    "[general]\nimage_dir = 'x'\n" + subset(""): r"\[general\]: image_dir belongs into \[\[datasets.subsets\]\]",
    '[[datasets]]\nresolution = "large"\n[[datasets.subsets]]\nimage_dir = "img/3_cat"': "resolution write it as width",
    '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "img/none"': "there is no folder .*none",
    '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "img"': 'only in 1_dog, 3_cat; .*1_dog" with num_repeats = 1',
    '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "empty"': "no pictures in .*empty; expected .png",
    '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "data.toml"': "is a file, no folder",
}


@pytest.mark.parametrize("text", WRONG)
def test_each_mistake_is_a_sentence_under_the_label(img: Path, text: str) -> None:
    (img.parent / "empty").mkdir()
    s = settings(written(img.parent, text))
    found = list(pictures(s))
    assert {problem.label for problem in found} == {"Dataset config file"}
    assert re.search(WRONG[text], str(found[0])), found
    assert len(found) == 1
    make_plan(s, scan(s))


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    for name, said in {"none.toml": "there is no file", "": "is a folder", "x.toml": "not a text file"}.items():
        assert said in str(next(pictures(settings(tmp_path / name))))


DATASET = "[[datasets]]\nresolution = 64\nmin_bucket_reso = 128\nbucket_no_upscale = false\nbucket_reso_steps = {}\n"
SUBSETS = (
    '[[datasets.subsets]]\nimage_dir = "img/3_cat"\n[[datasets.subsets]]\nimage_dir = "img/1_dog"\ncolor_aug = true\n'
)


def test_what_cannot_be_together_is_said_of_each_part_once(img: Path) -> None:
    s = settings(written(img.parent, DATASET.format(8) + SUBSETS), min_bucket_reso=4096)
    small, cached = of_pictures(s)
    assert str(small).startswith("Dataset config file: [[datasets]] 1: Minimum bucket resolution: 128 is more than")
    assert small.fix is None
    assert str(cached).startswith("Dataset config file: [[datasets]] 1, subset 2: Color augmentation: pictures that")
    assert cached.fix == {"cache_latents": False, "cache_latents_to_disk": False}


def test_the_image_folder_is_not_needed_and_a_filled_one_is_said_to_be_unused(img: Path) -> None:
    s = settings(written(img.parent, FOLDERS), train_data_dir=str(img))
    assert list(pictures(s)) == []
    said = [note for note in notes(s) if note.key == "train_data_dir"]
    assert [note.message for note in said] == ["is not used: Dataset config file says where the pictures are."]
    assert said[0].fix == {"train_data_dir": ""}


def test_subsets_that_are_not_used_are_said(img: Path) -> None:
    text = subset("") + '[[datasets.subsets]]\nimage_dir = "img/3_cat"\n' + (
        '[[datasets.subsets]]\nimage_dir = "img/1_dog"\nnum_repeats = 0\ncache_info = true\n'
    )  # fmt: skip
    dataset = scan(settings(written(img.parent, text)))
    assert len(dataset.subsets) == 1
    assert any("stands in this dataset already" in note for note in dataset.notes)
    assert any("num_repeats is 0" in note for note in dataset.notes)
    assert any("cache_info is not needed" in note for note in dataset.notes)
    assert any("class_tokens" in note or "no caption" in note for note in dataset.notes)


def test_masks_are_those_of_the_subset_and_count_with_masked_loss(img: Path) -> None:
    write(img.parent / "masks", a=(64, 64))
    s = settings(written(img.parent, subset('conditioning_data_dir = "masks"')))
    assert any("counts only with Masked loss, which is off" in note for note in scan(s).notes)
    dataset = scan(s.changed(masked_loss=True))
    assert [picture.mask and picture.mask.name for picture in dataset.pictures] == ["a.png", None, None]
    assert any("2 of 3 pictures have no mask in" in note for note in dataset.notes)
    (own,) = {
        subset.under(s).masked_loss
        for subset in scan(settings(written(img.parent, subset("alpha_mask = true")))).subsets
    }
    assert own, "as in sd-scripts, whether Masked loss is ticked or not"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(config.KEYS)), inner, max_size=3)
    ),
    max_leaves=6,
)
TABLES = st.dictionaries(st.sampled_from([*sorted(config.KEYS), "x"]), VALUES, max_size=4)


@given(TABLES, TABLES, TABLES)
@how(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_no_file_whatever_raises(
    tmp_path: Path, general: dict[str, Any], own: dict[str, Any], sub: dict[str, Any]
) -> None:
    tables = {"general": general, "datasets": [{**own, "subsets": [{"image_dir": ".", **sub}]}]}
    s = settings(written(tmp_path, json.dumps(tables), "data.json"))
    list(config.problems(s))
    list(config.complaints(s, ()))
    config.folders(s.dataset_config)
    scan(s)


def test_a_training_on_two_datasets_and_what_its_file_says(tmp_path: Path, img: Path) -> None:
    file = written(img.parent, TWO)
    s = trainings.settings(
        tiny_sd15(tmp_path / "model"), Path(), tmp_path / "out", train_data_dir="", dataset_config=str(file), seed=1,
        bucket_reso_steps=32,
    )  # fmt: skip
    found = trainings.run(s, tmp_path / "trained")
    assert len(trainings.losses(found)) == make_plan(s, scan(s)).steps == 5
    told = read_metadata(tmp_path / "out" / "small.safetensors")
    first, second = json.loads(told["ss_datasets"])
    assert (first["resolution"], first["batch_size_per_device"], first["num_train_images"]) == ([64, 64], 2, 5)
    assert (second["resolution"], second["batch_size_per_device"], second["num_train_images"]) == ([96, 96], 3, 6)
    assert first["bucket_info"]["buckets"]
    assert [(one["image_dir"], one["num_repeats"], one["flip_aug"]) for one in first["subsets"]] == [
        ("3_cat", 1, True), ("1_dog", 1, False),
    ]  # fmt: skip
    assert json.loads(told["ss_dataset_dirs"])["1_dog"] == {"n_repeats": 1, "img_count": 2}
    assert "grey" in json.loads(told["ss_tag_frequency"])["3_cat"]
    assert told["modelspec.resolution"] == "96x96"
    assert not {"ss_resolution", "ss_batch_size_per_device", "ss_bucket_info", "ss_flip_aug"} & set(told)
