"""Transfer: are features that a map shows on one network recognised by others?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor, nn

from whence.adapters import LoadedModel
from whence.core import ImageData, Method, Normalisation, Progress, silent
from whence.recipes.transfer_methods import MODIFIED, ORIGINAL_FORM, fill_named, studied_methods
from whence.recipes.transfer_networks import TransferNetwork, transfer_networks
from whence.recipes.transfer_plan import Plan
from whence.recipes.transfer_record import recorded
from whence.recipes.transfer_study import Study
from whence.report.transfer import heat_png, heat_svg, write_transfer
from whence.results.folder import write_whole
from whence.results.transfer import TransferRecord, save_transfer, transfer_csv
from whence.results.transfer_tables import transfer_markdown

__all__ = ["transfer"]


def transfer(  # noqa: PLR0913 - the public face: every setting of a study
    models: Mapping[str, nn.Module | LoadedModel] | Sequence[TransferNetwork],
    data: ImageData | str | Path | None = None,
    *,
    out: Path | str | None = None,
    methods: Sequence[str] | Mapping[str, Method | str] = (MODIFIED, ORIGINAL_FORM, "grad-cam"),
    fills: Sequence[str] = ("zero", "mean", "blur", "bank"),
    coverages: Sequence[float] = (0.1, 0.25, 0.5),
    target: str = "predicted",
    masks: Tensor | None = None,
    bank: ImageData | str | Path | None = None,
    normalisation: Normalisation | None = None,
    families: Mapping[str, str] | None = None,
    count: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    overwrite: bool = False,
    command: str = "",
    progress: Progress = silent,
) -> TransferRecord:
    r"""Ask every network what it sees in the features that maps of every network show.

    Of each image and each generating network a map :math:`M` is made; of it the features
    :math:`M \odot x + (1 - M) \odot \bar x`, soft and at matched coverage, on several fills; and
    each network says what it sees in them, and in the controls without which that says little:
    masks of other images, random smooth masks of the same values, what the masks hide, the masks
    alone, and the object where it is known.

    Networks may differ in size and units: features are made in pixels, and it is the map that is
    resampled. The cost: the methods on every network; and for each pair of networks and each
    method, about ``kinds of masks x (2 x fills + 3)`` forward passes per image.

    Args:
        models: Two classifiers or more, by name; or networks with data of their own.
        data: Test images with labels: in the models' units, or a source that each loaded model
            reads in its own way.
        out: A folder for ``transfer.json``, ``transfer.csv``, ``transfer.md``, ``report.html``,
            ``heat.svg`` and ``heat.png``; a study that was stopped there goes on. Nothing is
            written if None.
        methods: Names, with settings behind a colon: ``grad-cam``, ``ss-modified:steps=300``; or
            methods by what to call them.
        fills: What stands where a mask is zero; the first one gets all controls. Names of
            baselines, in pixels, where ``zero`` is black; or ``bank``, other images.
        coverages: Shares of the pixels that hard features show.
        target: The class that is explained: the generating network's own prediction, or
            ``label``. A map of the label tells the label to whoever looks: its features may be
            recognised where the image is not.
        masks: Where the objects are, ``(n, 1, h, w)``, 0 or 1, one for each image of the data, of
            the whole picture, or of the centre square where networks crop.
        bank: Other images, for the fill ``bank`` and for Soundness Saliency; the test images
            themselves if None.
        normalisation: The models' units, where they were not loaded by whence.
        families: Kinds of networks by name; found from their operations where not given.
        count: At most so many images, spread over the data.
        seed: Of shuffles, random masks and ties.
        batch_size: Images at a time; 64 if None.
        overwrite: Begin again, whatever study is in ``out``.
        command: What to note as the command.
        progress: Told how far each stage is.

    Raises:
        DataError: Fewer than two images, or images without labels.
        MismatchError: Another study is in ``out``.
        OutputError: ``out`` holds something else.
        SettingError, ModeError, NumericsError, ReadError, ShapeError, TargetError: See there.

    References:
        Kadir, Addluri and Sonntag (2023), "Harmonizing Feature Attributions Across Deep Learning
        Architectures: Enhancing Interpretability and Consistency".
    """
    networks = transfer_networks(
        models, data, normalisation=normalisation, families=families, bank=bank
    )
    for name in fills:
        fill_named(name) if name != "bank" else None
    plan = Plan(
        methods=studied_methods(methods),
        fills=tuple(fills),
        coverages=tuple(coverages),
        target=target,
        masks=masks,
        count=count,
        seed=seed,
        batch_size=batch_size or 64,
    )
    study = Study(networks=networks, plan=plan, progress=progress)
    if out is None:
        with TemporaryDirectory() as place:
            found = study.run(Path(place) / "study", overwrite=False)
            return recorded(study, found, command)
    record = recorded(study, study.run(Path(out), overwrite=overwrite), command)
    save(record, Path(out))
    return record


def save(record: TransferRecord, out: Path) -> None:
    """Write everything that people and programs read of a study."""
    write_whole(out / "transfer.csv", transfer_csv(record).encode("utf-8", "backslashreplace"))
    write_whole(out / "transfer.md", transfer_markdown(record).encode("utf-8", "backslashreplace"))
    write_whole(out / "heat.svg", heat_svg(record).encode("utf-8", "backslashreplace"))
    write_whole(out / "heat.png", heat_png(record))
    write_transfer(record, out / "report.html")
    save_transfer(record, out / "transfer.json")
