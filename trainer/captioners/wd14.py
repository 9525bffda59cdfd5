"""WD14 captioning: Danbooru's tags for each picture, from SmilingWolf's taggers or any of their kind."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from trainer.captioners import tagger, tags
from trainer.captioners.batches import caption_pictures
from trainer.captioners.captions import Pictures, Writer, joined, picture_files, picture_plan, picture_problems
from trainer.captioners.sources import Source
from trainer.captioners.tags import QUALITY, RATING, Choice, NotTags, Tag, Wording, read_tags
from trainer.declare import Problem, by_name, setting
from trainer.jobs import Job
from trainer.report import Failure, Reporter

REPOSITORIES = (
    "SmilingWolf/wd-v1-4-convnextv2-tagger-v2",
    "SmilingWolf/wd-v1-4-convnext-tagger-v2",
    "SmilingWolf/wd-v1-4-vit-tagger-v2",
    "SmilingWolf/wd-v1-4-swinv2-tagger-v2",
    "SmilingWolf/wd-v1-4-moat-tagger-v2",
    "SmilingWolf/wd-swinv2-tagger-v3",
    "SmilingWolf/wd-vit-tagger-v3",
    "SmilingWolf/wd-convnext-tagger-v3",
    "SmilingWolf/wd-eva02-large-tagger-v3",
)
VOCABULARY = "selected_tags.csv"
FILES = (VOCABULARY, tagger.MODEL)
SOURCE = Source(
    "a WD14 tagger", "repo_id", FILES, f"{tagger.MODEL} and {VOCABULARY}",
    lambda files: list(FILES) if set(FILES) <= set(files) else None,
)  # fmt: skip
MOST_FREQUENT = 30
"""Tags that are told on the page; the log has all."""


class Wd14Captions(Pictures):
    """Let a WD14 tagger list what is in each picture, as tags of Danbooru; it follows DeepDanbooru and knows more."""

    tab: ClassVar[str] = "WD14"
    title: ClassVar[str] = "WD14 Captioning"

    repo_id: str = setting(
        REPOSITORIES[0], "Repo ID", "The tagger, successor of DeepDanbooru; eva02-large is best and slowest. Any of this kind on the hub, or a folder.",
        choices=REPOSITORIES, custom=True, kind="folder",
    )  # fmt: skip
    force_download: bool = setting(
        False, "Force model re-download", "Fetch the tagger again, should its files be damaged or have changed."
    )
    caption_separator: str = setting(
        ", ", "Caption Separator", "Stands between two tags; the training expects a comma."
    )
    undesired_tags: str = setting("", "Undesired tags", "Never written: a list with commas, such as 1girl,solo,smile.")
    tag_replacement: str = setting(
        "",
        "Tag replacement",
        r"Other words for tags: tag,other words;second tag,other words. A comma or semicolon within a tag is \, or \;",
    )
    prefix: str = setting(
        "",
        "Prefix to add to WD14 caption",
        "Put in front, such as a trigger word. A separator is added where one is missing.",
    )
    postfix: str = setting(
        "", "Postfix to add to WD14 caption", "Put behind. A separator is added where one is missing."
    )
    batch_size: int = setting(
        1, "Batch size", "Pictures looked at together. More is faster on a graphics card.", ge=1, soft_max=64
    )
    thresh: float = setting(
        0.35,
        "Threshold",
        "Tags at least so likely are written, 0 to 1. Higher gives fewer and surer ones; 0.35 is usual.",
        ge=0,
        le=1,
    )
    general_threshold: float | None = setting(
        None, "General threshold", "For what is seen, such as long hair. Empty: as Threshold.", ge=0, le=1
    )
    character_threshold: float | None = setting(
        None,
        "Character threshold",
        "For names of characters, where 0.85 leaves few wrong ones. Empty: as Threshold.",
        ge=0,
        le=1,
    )
    append_tags: bool = setting(
        False, "Append TAGs", "Existing captions get the tags behind them that they do not have yet."
    )
    use_rating_tags: bool = setting(
        False, "Use rating tags", "Puts the rating in front: general, sensitive, questionable or explicit."
    )
    use_rating_tags_as_last_tag: bool = setting(
        False, "Use rating tags as last tag", "Puts the rating behind the tags, also if both are ticked."
    )
    use_quality_tags: bool = setting(
        False, "Use quality tags", "Puts the quality in front, where a tagger knows it; those of the list do not."
    )
    use_quality_tags_as_last_tag: bool = setting(
        False, "Use quality tags as last tag", "Puts the quality behind the tags, also if both are ticked."
    )
    character_tags_first: bool = setting(
        False, "Character tags first", "Names of characters stand before all other tags, not behind them."
    )
    character_tag_expand: bool = setting(False, "Character tag expand", "name_(series) becomes two tags: name, series.")
    remove_underscore: bool = setting(
        True, "Remove underscore", "long_hair becomes long hair; emoticons such as ^_^ stay."
    )
    recursive: bool = setting(False, "Recursive", "Pictures in sub-folders as well, however deep.")
    frequency_tags: bool = setting(
        True, "Show tags frequency", "How often each tag was given, at the end: in the notes, and whole in the log."
    )
    max_data_loader_n_workers: int = setting(
        2,
        "Max dataloader workers",
        "Threads that read pictures ahead; more help where reading is slow.",
        ge=1,
        soft_max=16,
        advanced=True,
    )
    always_first_tags: str = setting(
        "",
        "Always first tags",
        "Stand first in a caption where the tagger found them: a list with commas, such as 1girl,1boy.",
        advanced=True,
    )


KNOWN = by_name(Wd14Captions)


class Wd14(Job):
    """Caption with tags from a WD14 tagger."""

    name = "caption-wd14"
    label = "WD14"
    button = "Caption images"
    place = "Utilities > Captioning"
    Settings = Wd14Captions

    def check(self, settings: Any) -> Iterator[Problem]:
        s: Wd14Captions = settings
        yield from picture_problems(s, s.recursive)
        yield from tagger_problems(s)
        if not s.caption_separator:
            fix = {"caption_separator": ", "}
            yield _problem("caption_separator", "is empty, so tags would run together.", fix, "Use a comma")
        try:
            tags.replacements(s.tag_replacement)
        except ValueError as error:
            yield _problem("tag_replacement", str(error))
        if s.append_tags and s.overwrite_captions:
            message = f"keeps what {KNOWN['overwrite_captions'].label} would replace; untick one of them."
            yield _problem("append_tags", message, {"overwrite_captions": False}, "Append")

    def notes(self, settings: Any) -> Iterator[Problem]:
        s: Wd14Captions = settings
        if wants(s)[QUALITY] and s.repo_id in REPOSITORIES:
            yield _problem(quality_key(s), "this tagger knows no quality tags, so none will be written.")

    def plan(self, settings: Any) -> Mapping[str, Any]:
        return picture_plan(settings, settings.recursive)

    def run(self, settings: Any, report: Reporter) -> None:
        s: Wd14Captions = settings
        folder = Path(s.image_folder).expanduser()
        writer = Writer(report, folder, s.caption_extension, s.overwrite_captions or s.append_tags)
        frequency: Counter[str] = Counter()
        caption_pictures(
            picture_files(folder, s.recursive), writer, report, lambda: Wd14Captioner(s, writer, report, frequency),
            s.batch_size, s.max_data_loader_n_workers,
        )  # fmt: skip
        if s.frequency_tags and frequency:
            say_how_often(report, frequency)


def _problem(key: str, message: str, fix: Mapping[str, Any] | None = None, fix_label: str = "") -> Problem:
    return Problem(key, KNOWN[key].label, message, fix, fix_label)


def tagger_problems(s: Wd14Captions) -> Iterator[Problem]:
    """Why the tagger cannot be loaded, as far as can be seen without loading it."""
    lacking = tagger.missing()
    if lacking:
        yield _problem("repo_id", lacking)
    elif not s.repo_id.strip():
        yield _problem("repo_id", "choose a tagger.", {"repo_id": REPOSITORIES[0]}, f"Use {REPOSITORIES[0]}")
    elif message := SOURCE.problem(s.repo_id):
        yield _problem("repo_id", message)
    elif (folder := SOURCE.local(s.repo_id)) is not None:
        try:
            read_tags(folder / VOCABULARY)
        except (NotTags, OSError) as error:
            yield _problem("repo_id", f"{folder / VOCABULARY} {error}.")
        if s.force_download:
            message = f"{folder} is a folder of this machine; nothing is downloaded."
            yield _problem("force_download", message, {"force_download": False}, "Untick it")


def wants(s: Wd14Captions) -> dict[str, bool]:
    """Whether rating and quality are asked for."""
    return {
        RATING: s.use_rating_tags or s.use_rating_tags_as_last_tag,
        QUALITY: s.use_quality_tags or s.use_quality_tags_as_last_tag,
    }


def quality_key(s: Wd14Captions) -> str:
    """The tick by which quality was asked for."""
    return "use_quality_tags" if s.use_quality_tags else "use_quality_tags_as_last_tag"


def choice(s: Wd14Captions) -> Choice:
    """Which tags a picture gets. A threshold that is not set follows the common one."""
    last = {RATING: s.use_rating_tags_as_last_tag, QUALITY: s.use_quality_tags_as_last_tag}
    wanted = wants(s)
    return Choice(
        general=s.thresh if s.general_threshold is None else s.general_threshold,
        character=s.thresh if s.character_threshold is None else s.character_threshold,
        characters_first=s.character_tags_first,
        front=tuple(kind for kind in wanted if wanted[kind] and not last[kind]),
        back=tuple(kind for kind in wanted if last[kind]),
    )


def wording(s: Wd14Captions) -> Wording:
    """In which words tags are written."""
    undesired = frozenset(tags.key(tags.plain(tag)) for tag in tags.split(s.undesired_tags, ","))
    return Wording(s.remove_underscore, s.character_tag_expand, tags.replacements(s.tag_replacement), undesired)


class Wd14Captioner:
    """A tagger that is loaded and ready; what it finds is counted in `frequency`."""

    def __init__(self, s: Wd14Captions, writer: Writer, report: Reporter, frequency: Counter[str]) -> None:
        self.s, self.writer, self.frequency = s, writer, frequency
        folder = SOURCE.folder(s.repo_id, report, s.force_download)
        report.phase("loading the tagger")
        self.vocabulary = self._vocabulary(folder / VOCABULARY)
        self.tagger = tagger.Tagger(folder, self.vocabulary, report, "repo_id")
        self.read = self.tagger.read
        self.choice, self.wording = choice(s), wording(s)
        self.first = [tags.key(tag) for tag in tags.split(s.always_first_tags, ",")]
        self._say_what_is_unknown(report)

    @staticmethod
    def _vocabulary(path: Path) -> tuple[Tag, ...]:
        try:
            return read_tags(path)
        except NotTags as error:
            raise Failure(f"{path} {error}.", "Download it again, or choose another tagger.", "repo_id") from error

    def _say_what_is_unknown(self, report: Reporter) -> None:
        s = self.s
        lists: Mapping[str, Iterable[str]] = {
            "undesired_tags": map(tags.plain, tags.split(s.undesired_tags, ",")),
            "tag_replacement": tags.replacements(s.tag_replacement),
            "always_first_tags": tags.split(s.always_first_tags, ","),
        }
        for name, words in lists.items():
            for text in tags.unknown(words, self.vocabulary, self.wording):
                report.note(f"{KNOWN[name].label}: this tagger has no tag {text}", "warning", name)
        if wants(s)[QUALITY] and all(tag.category != QUALITY for tag in self.vocabulary):
            key = quality_key(s)
            report.note(f"{KNOWN[key].label}: this tagger knows no quality tags; none are written.", "warning", key)

    def captions(self, paths: Sequence[Path], pictures: Sequence[tagger.Pixels]) -> list[str]:
        """The captions of prepared pictures."""
        return [self._caption(path, row) for path, row in zip(paths, self.tagger.probabilities(pictures), strict=True)]

    def _caption(self, path: Path, likely: tags.Probabilities) -> str:
        texts = tags.in_words(self.choice(self.vocabulary, likely), self.wording, self.first)
        self.frequency.update(texts)
        before = (self.writer.existing(path) or "") if self.s.append_tags else ""
        text = tags.appended(before, texts, self.s.caption_separator)
        return joined(self.s.prefix, text, self.s.postfix, self.s.caption_separator)


def say_how_often(report: Reporter, frequency: Counter[str]) -> None:
    """A table in the log, and the most frequent tags as a note."""
    print("How often each tag was given:")
    for tag, count in frequency.most_common():
        print(f"{count:7d}  {tag}")
    told = ", ".join(f"{tag} {count}" for tag, count in frequency.most_common(MOST_FREQUENT))
    more = f" The log has all {len(frequency)}." if len(frequency) > MOST_FREQUENT else ""
    report.note(f"Tags by frequency: {told}.{more}")
