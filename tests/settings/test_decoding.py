"""Whatever a file holds, it is read or there is a sentence about what it is."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from trainer.declare import validate
from trainer.settings import Settings
from trainer.settings.decoding import LARGEST
from trainer.settings.kohya import load
from trainer.settings.loaded import KNOWN, Loaded, Unreadable


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not valid JSON"),
        (b"", "is empty"),
        (b"\n \t", "is empty"),
        (b"[1]", "holds a list"),
        (b"\xff\xfe\x00\x89PNG\xd8", "not a text file"),
        (b"\x89PNG\x00\xff", "not a text file"),
        (b"[" * 10**5, "nested too deeply"),
        (b'{"epoch":' + b"[" * 100 + b"]" * 100 + b"}", "nested too deeply"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested too deeply"),
        (b"a=" + b"[" * 2000 + b"]" * 2000, "nested too deeply"),
        (b"x" * (LARGEST + 1), "settings are a few KB"),
        (b'{"output_dir": "D:\\lora"}', "line 1, column 19: a backslash stands alone; in paths write"),
        (b'{"epoch": 3,}', "line 1, column 13: a name in double quotes is expected, or there is a comma too many"),
        (b'{"epoch": 3 "seed": 1}', "a comma is missing"),
        (b'{"output_name": "a\nb"}', "a text holds a line break"),
        (b'{"epoch" 3}', "a colon is missing"),
        (b'{"epoch": 3} {}', "something after its end"),
        (b'{"epoch": "3}', "no closing quote"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_files_that_are_no_settings(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(Unreadable, match=words):
        load(file)
    with pytest.raises(Unreadable, match="no file"):
        load(tmp_path / "none.json")
    with pytest.raises(Unreadable, match="folder"):
        load(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-mark", "utf-16-be-mark"])
@pytest.mark.parametrize(
    "text", ['{"training_comment": "größe 🐈"}', 'training_comment = "größe 🐈"'], ids=["json", "toml"]
)
@pytest.mark.parametrize("name", ["x.json", "x.toml", "x.JSON", "x.txt", "x"])
def test_json_and_toml_in_every_encoding_and_under_every_name(
    tmp_path: Path, name: str, text: str, encoding: str
) -> None:
    file = tmp_path / name
    if encoding.endswith("-mark"):
        file.write_bytes(("\ufeff" + text).encode(encoding.removesuffix("-mark")))
    else:
        file.write_text(text, encoding=encoding)
    assert load(file).settings.training_comment == "größe 🐈"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("lora.safetensors", "x", "is a model, not settings. A LoRA to go on from goes into LoRA network weights"),
        ("job.yaml", "---\njob: extension\nconfig:\n  name: x\n", "is a YAML file of ai-toolkit"),
        ("job.yml", "job: extension\nconfig:\n  name: x\n", "is a YAML file of ai-toolkit"),
        ("default_config.yaml", "compute_environment: LOCAL_MACHINE\n", "of accelerate; its numbers have fields under"),
        ("x.json", "epoch: 3\n", "is a YAML file; settings are JSON or TOML"),
        ("train.sh", "accelerate launch train_network.py --network_dim 4", "paste what begins with --"),
        ("train.txt", "accelerate launch sdxl_train_network.py --network_dim 4", "paste what begins with --"),
        ("prompts.txt", "a cat", "is neither JSON nor TOML"),
        ("log.csv", "a,b", "is neither JSON nor TOML"),
    ],
)
def test_what_is_neither_json_nor_toml_is_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    with pytest.raises(Unreadable, match=words):
        load(file)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.json", '{"epoch": 3, "network_dim": 4, "epoch": 5}'),
        ("x.toml", "[one]\nepoch = 3\nnetwork_dim = 4\n[two]\nepoch = 5"),
    ],
)
def test_what_a_file_says_twice_is_named(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    found = load(file)
    assert (found.settings.epoch, found.settings.network_dim) == (5, 4)
    assert [(item.key, item.why) for item in found.ignored] == [
        ("epoch", "the file says it twice; the last one counts")
    ]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    import os

    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no pipes in this system's folders")
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(Unreadable, match="is not a file"):
        load(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"epoch": ' + "9" * 5000 + "}", {}),
        ('{"epoch": -' + "9" * 5000 + "}", {}),
        ('{"learning_rate": 1e999, "network_alpha": -1e999, "unet_lr": NaN, "seed": Infinity}', {}),
        ('{"training_comment": "\\ud83d", "\\udfff": 1}', {"training_comment": "\ufffd"}),
        ('{"training_comment": "\\ud83d\\ude00"}', {"training_comment": "😀"}),
        ('{"training_comment": "a\\u0000b", "train_data_dir": "\\u0000"}', {}),
    ],
    ids=["huge", "huge below zero", "no numbers", "half characters", "two halves", "end of text"],
)  # fmt: skip
def test_values_that_nothing_can_hold(tmp_path: Path, text: str, values: dict[str, str]) -> None:
    file = tmp_path / "x.json"
    file.write_text(text, encoding="utf-8")
    found = load(file)
    assert found.values == values
    assert all(problem.label == KNOWN[problem.key].label for problem in found.problems)
    repr(found).encode()  # nothing of it is beyond what a terminal or a browser can be given


def test_a_toml_with_a_number_of_5000_digits_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("epoch = " + "9" * 5000, encoding="utf-8")
    with pytest.raises(Unreadable, match="too many digits"):
        load(file)


def _as_text(data: object, escaped: bool) -> bytes:
    return json.dumps(data, ensure_ascii=escaped).encode("utf-8", "surrogatepass")


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(KNOWN)) | st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=60), st.text(max_size=60).map(str.encode), st.builds(_as_text, ANY_JSON, st.booleans())
    )
)
@example(b"a=1979-05-27T07:32:00Z")
@example(b"datasets=[1]")
@example(b'{"datasets": {"a": 1}}')
@example(b"[[epoch]]\n")
@example(b"\xff\xfe{")
def test_no_file_whatever_does_more_than_be_unreadable(tmp_path: Path, content: bytes) -> None:
    """Whatever is in a file: it is read and all of its values are valid, or there is a sentence."""
    for name in ("x.json", "x.toml"):
        file = tmp_path / name
        file.write_bytes(content)
        found = _loaded(file)
        if isinstance(found, str):
            assert found.endswith(".")
            assert name in found
        else:
            assert validate(Settings, found.values)[1] == []
            assert found.settings


def _loaded(file: Path) -> Loaded | str:
    try:
        return load(file)
    except Unreadable as error:
        return str(error)
