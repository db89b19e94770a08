"""An audit in a few sentences, for somebody who reads nothing else."""

from collections import Counter

from whence.report.words import counted, number, percent
from whence.results.records import AuditRecord, QueryRecord

__all__ = ["summary_sentences"]

_KINDS = {"region": "region", "label": "label", "images": "group of images"}
_PLURAL = {"region": "regions", "label": "labels", "images": "groups of images"}


def summary_sentences(record: AuditRecord) -> tuple[str, ...]:
    """What an audit found: accuracy, the clearest region, labels, harm, and what to decide."""
    return (
        _accuracy(record),
        _region(record),
        _labels(record),
        _harm(record),
        _decisions(record),
    )


def _is_wrong(query: QueryRecord) -> bool:
    return query.label is not None and query.label != query.prediction


def _accuracy(record: AuditRecord) -> str:
    asked, wrong = len(record.queries), sum(map(_is_wrong, record.queries))
    traced = f"{counted(asked, 'test image')} {'was' if asked == 1 else 'were'} traced"
    if record.accuracy is None:
        return f"{traced}; without labels nobody knows how many predictions are right."
    tested = counted(record.test.count, "test image")
    right = f"The network gets {percent(record.accuracy)} of {tested} right"
    return f"{right}; {traced}, {wrong} of which it gets wrong."


def _region(record: AuditRecord) -> str:
    if not record.regions:
        return "No region of the training images keeps carrying influence, so no shortcut was seen."
    best = max(record.regions, key=lambda one: one.ratio)
    chance = (
        "" if best.chance_mass is None else f", where chance gives {percent(best.chance_mass, 0)}"
    )
    return (
        f"The clearest sign of a shortcut is in class “{record.model.classes[best.label]}”: in "
        f"{counted(len(best.images), 'training image')}, {percent(best.area)} of the area carries "
        f"{percent(best.mass, 0)} of the positive influence{chance}."
    )


def _labels(record: AuditRecord) -> str:
    if not record.suspect_labels:
        return "No training label looks wrong."
    first, classes = record.suspect_labels[0], record.model.classes
    several = counted(len(record.suspect_labels), "training label looks", "training labels look")
    return (
        f"{several} wrong; the most suspicious is {first.name}, labelled "
        f"“{classes[first.label]}”, which looks like “{classes[first.suggested]}”."
    )


def _harm(record: AuditRecord) -> str:
    if not record.harmful:
        return "No training image is known to harm a prediction."
    worst = max(record.harmful, key=lambda one: (len(one.queries), one.share))
    wrong = sum(map(_is_wrong, record.queries))
    several = counted(len(record.harmful), "training image speaks", "training images speak")
    return f"{several} for wrong predictions; {worst.name} for {len(worst.queries)} of {wrong}."


def _decisions(record: AuditRecord) -> str:
    if not record.findings:
        return "There is nothing to decide: the audit proposes no change."
    kinds = Counter(one.kind for one in record.findings)
    named = ", ".join(
        f"{number(count)} {_KINDS[kind] if count == 1 else _PLURAL[kind]}"
        for kind, count in kinds.items()
    )
    return (
        f"To be decided by a person, in findings.toml or with “whence view”: {named}; “whence fix” "
        f"then does what was accepted."
    )
