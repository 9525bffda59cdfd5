"""Sample prompts as people write them, as web UIs write them into pictures, and files of them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.prompts import OTHERS, Prompt, parse_prompt, parse_prompts, prompt_file, read_prompts


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a cat", Prompt("a cat")),
        ("a cat, sitting --n blurry, low quality --w 512 --h 768 --d 42 --l 5.5 --s 20",
         Prompt("a cat, sitting", "blurry, low quality", 512, 768, 42, 5.5, 20)),
        ("  a cat   --s 20 --n   ", Prompt("a cat", steps=20)),
        ("a well-known cat -- really --w 100", Prompt("a well-known cat -- really", width=96)),
        ("--n only negative", Prompt("", "only negative")),
        ("a cat --w 1 --h 99999999", Prompt("a cat", width=64, height=8192)),
        ("a cat --s 0", Prompt("a cat", steps=1)),
        ("a cat --s 5000", Prompt("a cat", steps=1000)),
        ("a cat --W 64 --D 7", Prompt("a cat", width=64, seed=7)),
        ("a cat --ss K_Euler", Prompt("a cat", sampler="euler")),
        ("(ein schöner:1.2) Kater 🐈 --d 0", Prompt("(ein schöner:1.2) Kater 🐈", seed=0)),
    ],
)  # fmt: skip
def test_prompts_are_read(line: str, expected: Prompt) -> None:
    assert parse_prompt(line) == expected


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a cat --w wide", "--w must be followed by a whole number, not 'wide'"),
        ("a cat --l", "--l must be followed by a number, not ''"),
        ("a cat --s 1.5", "--s must be followed by a whole number"),
        ("a cat --q 3", "--q is not known"),
        ("a cat --ss magic", "one of ddim"),
    ],
)
def test_what_cannot_be_read_is_quoted(line: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_prompt(line)


def test_lines_comments_and_problems() -> None:
    prompts, problems, _ = parse_prompts("# mine\n\na cat\n   # rest\na dog --w x\r\na bird --s 3\n")
    assert [prompt.text for prompt in prompts] == ["a cat", "a bird"]
    assert problems == ["Line 5: --w must be followed by a whole number, not 'x'."]


@pytest.mark.parametrize("letter", OTHERS)
def test_what_is_for_other_models_is_said_and_the_rest_is_drawn(letter: str) -> None:
    prompts, problems, notes = parse_prompts(f"a cat --{letter} 3.5 --s 7 --{letter}")
    assert prompts == [Prompt("a cat", steps=7)]
    assert problems == []
    assert notes == [f"Line 1: --{letter} has no effect: it is {OTHERS[letter]}."] * 2


def test_networks_in_a_prompt_are_left_out() -> None:
    prompts, problems, notes = parse_prompts("a cat <lora:mine:0.8>, sitting <3 --n <lora:x:1> bad")
    assert prompts == [Prompt("a cat, sitting <3", "<lora:x:1> bad")]
    assert problems == []
    assert notes == ["Line 1: <lora:…> has no effect: samples show the LoRA that is trained, at full strength."]


# Pictures' texts.

FACTS = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 512x768, Model hash: e1441589a6, Model: a, b"
WHOLE = Prompt("a (red:1.3) cat", "blurry, bad", 512, 768, 42, 7.0, 20, "euler_a")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"a (red:1.3) cat\nNegative prompt: blurry, bad\n{FACTS}", [WHOLE]),
        (f"a (red:1.3) cat\r\nNegative prompt: blurry,\r\nbad\r\n{FACTS}\r\n", [WHOLE]),
        (f"a dog --s 3\na (red:1.3) cat\nnegative Prompt:blurry, bad\n{FACTS}\na bird", [Prompt("a dog", steps=3), WHOLE, Prompt("a bird")]),
        (f"# first\na (red:1.3) cat\nNegative prompt: blurry, bad\n{FACTS}\n\n{FACTS[:9]}", [WHOLE, Prompt("", steps=20)]),
        ("masterpiece,\na cat,\nsitting\nNegative prompt: x", [Prompt("masterpiece, a cat, sitting", "x")]),
        ("a\nNegative prompt: x\nb\nNegative prompt: y\nSteps: 5", [Prompt("a", "x"), Prompt("b", "y", steps=5)]),
        ("a cat\nSteps: 5, Seed: -1, CFG scale: 4.5", [Prompt("a cat", guidance=4.5, steps=5)]),
        ("a cat,\na dog", [Prompt("a cat,"), Prompt("a dog")]),
        ("a cat --n old --d 3\nNegative prompt: new\nSteps: 9", [Prompt("a cat", "new", seed=3, steps=9)]),
    ],
)  # fmt: skip
def test_texts_of_pictures_are_read(text: str, expected: list[Prompt]) -> None:
    assert parse_prompts(text) == (expected, [], [])


@pytest.mark.parametrize(
    ("sampler", "name", "note"),
    [
        ("Euler a", "euler_a", ""), ("DPM++ 2M", "dpmsolver++", ""), ("PLMS", "pndm", ""), ("dpm_2", "dpm_2", ""),
        ("DPM++ 2M Karras", "dpmsolver++", "Line 1: The schedule karras is not offered; dpmsolver++ draws with its usual"),
        ("Euler, Schedule type: SGM Uniform", "euler", "Line 1: The schedule sgm uniform is not offered; euler draws"),
        ("Euler, Schedule type: Automatic", "euler", ""),
        ("UniPC", "", "Line 1: Sampler UniPC is not offered; the one chosen as Sample sampler draws it."),
    ],
)  # fmt: skip
def test_samplers_by_the_names_of_web_uis(sampler: str, name: str, note: str) -> None:
    ((prompt,), problems, notes) = parse_prompts(f"a cat\nSteps: 5, Sampler: {sampler}, Seed: 1")
    assert (prompt.sampler, prompt.seed, problems) == (name, 1, [])
    assert [text[: len(note)] for text in notes] == [note] * bool(note)


def test_facts_that_cannot_be_read_are_quoted() -> None:
    assert parse_prompts("a cat\nSteps: 20, Seed: many").problems == ["Line 1: Seed must be a number, not 'many'."]


PIECES = st.sampled_from(
    ["a cat", "Negative prompt: x", "Steps: 5, Seed: 1", "", "# no", "y,", "--w 8", " --ss x", "Steps: 5"]
)


@given(st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=8).map("\n".join)))
def test_whatever_the_text_it_is_read(text: str) -> None:
    prompts, problems, _ = parse_prompts(text)
    wanted = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(prompts) + len(problems) <= len(wanted)
    assert bool(prompts or problems) == bool(wanted)


# Files.


def test_files_of_prompts_are_read_again_each_time(tmp_path: Path) -> None:
    path = tmp_path / "my prompts.txt"
    path.write_text("# mine\na cat --s 3\n\na dog\nNegative prompt: x\n", "utf-8-sig")
    assert read_prompts(f' "{path}" ').prompts == [Prompt("a cat", steps=3), Prompt("a dog", "x")]
    path.write_text("a bird --w x", "utf-8")
    assert read_prompts(str(path)).problems == ["Line 1: --w must be followed by a whole number, not 'x'."]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", '[prompt]\nwidth = 64\nscale = 5\n[[prompt.subset]]\nprompt = "a cat"\nseed = 3\n'),
        ("a.json", '[{"prompt": "a cat", "width": 64, "scale": 5, "seed": 3}]'),
        ("b.json", '["a cat --w 64 --l 5 --d 3"]'),
    ],
)
def test_files_of_tables_are_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_prompts(str(tmp_path / name)) == ([Prompt("a cat", width=64, seed=3, guidance=5.0)], [], [])


def test_files_that_cannot_be_read_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "broken.json").write_text("[")
    said = {
        name: read_prompts(str(tmp_path / name)).problems
        for name in ("no.txt", "folder.txt", "bytes.txt", "broken.json")
    }
    assert all(len(problems) == 1 for problems in said.values()), said
    assert said["no.txt"] == [f"There is no file {tmp_path / 'no.txt'}."]
    assert said["bytes.txt"] == ["bytes.txt is not a text file in UTF-8."]


@pytest.mark.parametrize("text", ["\0.txt", "x" * 5000 + ".txt", "~nobody-here/x.txt", "/" + "x " * 5000 + ".json"])
def test_names_that_no_file_has_do_not_raise(text: str) -> None:
    read_prompts(text)


@pytest.mark.parametrize("text", ["a cat", "a cat in cat.txt", "one.txt\ntwo.txt", "a.png", ""])
def test_prompts_are_no_file(text: str) -> None:
    assert prompt_file(text) is None
