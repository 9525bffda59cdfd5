"""What the settings of captions ask of each other, and of the captions there are."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from trainer.data.captions import WILDCARD, framed, lines, takes_apart
from trainer.declare import Problem, by_name
from trainer.settings import Settings

KNOWN = by_name(Settings)
MARKS = {"keep_tokens_separator": "|||", "secondary_separator": ";;;"}
"""Settings that are a mark within captions, and what they usually are."""


def problem(key: str, message: str, fix: Mapping[str, Any] | None = None, fix_label: str = "") -> Problem:
    """A sentence about the setting `key`, under its label."""
    return Problem(key, KNOWN[key].label, message, fix, fix_label)


def label(key: str) -> str:
    """What the page calls a setting."""
    return KNOWN[key].label


# What stops a run.


def separators(s: Settings) -> Iterator[Problem]:
    """Can a caption be taken apart at these marks?"""
    if not s.caption_separator:
        message = "it is empty; write what stands between the parts of a caption."
        yield problem("caption_separator", message, {"caption_separator": ","}, "Use a comma")
        return
    for key, usual in MARKS.items():
        if s.caption_separator in getattr(s, key):
            fix = None if s.caption_separator in usual else {key: usual}
            message = f"it holds the {label('caption_separator')}, at which captions are cut first; {usual} is usual."
            yield problem(key, message, fix, f"Use {usual}")
    keep, join = s.keep_tokens_separator, s.secondary_separator
    if keep and join and (keep in join or join in keep):
        message = (
            f"it cannot be told from the {label('keep_tokens_separator')}; {MARKS['secondary_separator']} is usual."
        )
        yield problem("secondary_separator", message, {"secondary_separator": ""}, "Use none")


OF_PICTURES = (separators,)
"""Those that each part of a dataset config has to answer for itself."""


# What may surprise.


def without_effect(s: Settings) -> Iterator[Problem]:
    """Settings that only say more about another one."""
    movers = ("shuffle_caption", "caption_tag_dropout_rate", "token_warmup_step")
    for key in ("keep_tokens", "keep_tokens_separator"):
        if getattr(s, key) and not takes_apart(s):
            first, *others = map(label, movers)
            stays = f"; without them {s.keep_tokens_separator} is a word like others" if key in MARKS else ""
            message = f"has an effect only with {first}, {' or '.join(others)}{stays}."
            yield problem(key, message, {"shuffle_caption": True}, f"Tick {first}")
    if s.token_warmup_min != KNOWN["token_warmup_min"].default and not s.token_warmup_step:
        message = f"has an effect only with {label('token_warmup_step')}."
        yield problem("token_warmup_min", message, {"token_warmup_step": 0.3}, "Warm up for 30% of the run")


def warm_up(s: Settings) -> Iterator[Problem]:
    """A warm-up that is over at once, or never."""
    from trainer.data.dataset import scan
    from trainer.plan import make_plan

    if s.token_warmup_step == 1:
        message = "1 is one step, so it is over at once; 0.3 is 30% of the run."
        yield problem("token_warmup_step", message, {"token_warmup_step": 0.3}, "Use 0.3")
    elif s.token_warmup_step > 1:
        steps = make_plan(s, scan(s)).steps
        if 0 < steps < s.token_warmup_step:
            message = f"the run ends after {steps} steps, before all parts of long captions are used."
            yield problem("token_warmup_step", message, {"token_warmup_step": 0.3}, "Use 0.3")


def in_captions(s: Settings) -> Iterator[Problem]:
    """Marks and wildcards that are not in the captions, and those that are and would be read as text."""
    from trainer.data.dataset import scan

    found = [(framed(picture.caption, own), own) for picture in scan(s).pictures for own in (picture.under(s),)]
    for key in MARKS:
        marked = [getattr(own, key) in text for text, own in found if getattr(own, key)]
        mark = next((getattr(own, key) for _, own in found if getattr(own, key)), "")
        if marked and not any(marked):
            yield problem(key, f"no caption holds {mark}.", {key: ""}, "Use none")
        elif key == "keep_tokens_separator" and not all(marked):
            message = f"{marked.count(False)} of {len(marked)} captions have no {mark}; of these, the first parts stay"
            yield problem(key, f"{message} ({label('keep_tokens')}: {s.keep_tokens}).")
    yield from _wildcards(found)


def _wildcards(found: list[tuple[str, Settings]]) -> Iterator[Problem]:
    key = "enable_wildcard"
    read = [text for text, own in found if own.enable_wildcard]
    unread = [text for text, own in found if not own.enable_wildcard and _has_choice(text)]
    if read and not any(_has_choice(text) or len(lines(text)) > 1 for text in read):
        message = "no caption has several lines or a choice such as {red|green}."
        yield problem(key, message, {key: False}, "Untick it")
    if unread:
        many = "1 caption holds" if len(unread) == 1 else f"{len(unread)} captions hold"
        message = f"{many} choices such as {{red|green}}, which are read as they stand; tick it to use one each time."
        yield problem(key, message, {key: True}, "Tick it")
    for part, which in (("caption_prefix", "first"), ("caption_suffix", "last")):
        if any(getattr(own, part) and own.enable_wildcard and len(lines(text)) > 1 for text, own in found):
            yield problem(part, f"of captions with several lines only the {which} has it; write it into each line.")


def _has_choice(text: str) -> bool:
    return any("|" in (match["choices"] or "") for match in WILDCARD.finditer(text))


def trigger_word(s: Settings) -> Iterator[Problem]:
    """Captions of regularisation images that hold the trigger word, which belongs to your own pictures alone."""
    from trainer.data.dataset import scan

    dataset = scan(s)
    everyday = PLAIN.union(*(_words(item.concept) for item in dataset.subsets if item.is_reg))
    firsts = {picture.caption.partition(",")[0].lower() for picture in dataset.pictures}
    names = [item.concept for item in dataset.subsets if not item.is_reg] + list(firsts if len(firsts) == 1 else ())
    triggers = [words for name in names if (words := _words(name) - everyday)]
    holding = [
        (picture, words) for picture in dataset.reg_pictures for words in triggers if words <= _words(picture.caption)
    ]
    if holding:
        picture, words = holding[0]
        said = " ".join(sorted(words, key=picture.caption.lower().find))
        count = len({picture for picture, _ in holding})
        many = f"{count} of {len(dataset.reg_pictures)} captions of regularisation images"
        message = f"{many} hold “{said}”, such as {picture.path.name}; take it out, it is for your own pictures alone."
        yield problem("reg_data_dir", message)


PLAIN = {
    "a", "an", "and", "at", "by", "drawing", "image", "in", "of", "on", "painting", "photo", "picture", "portrait",
    "style", "the", "with",
}  # fmt: skip
"""Words that say how something is shown, or nothing."""


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


NOTES = (without_effect, warm_up, in_captions, trigger_word)
