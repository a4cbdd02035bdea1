"""The only reader of the config: sections become typed plans."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jax_mrissl.augment import build_policy
from jax_mrissl.augment.policy import Policy
from jax_mrissl.core.build import build, typed
from jax_mrissl.core.errors import UserError, expect_known
from jax_mrissl.data.divisions import DIVISIONS
from jax_mrissl.data.labels import TASKS
from jax_mrissl.data.pipeline import PLACEMENTS, Placement
from jax_mrissl.models import ENCODERS
from jax_mrissl.objectives import METHODS
from jax_mrissl.objectives.objective import Objective
from jax_mrissl.tasks.watch import WatchPlan
from jax_mrissl.train.optimizer import OPTIMIZERS, Optimizer
from jax_mrissl.train.parallel import PARALLELS

Json = Any
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
MODES = ('linear', 'knn', 'full')
POSITIVES = ('image', 'subject')
# What a view of evaluation may be made of.
_NOT_RANDOM = ('resize', 'center_crop', 'normalize')


@dataclasses.dataclass(frozen=True)
class DataPlan:
    """Which images.

    Attributes:
        name: a prepared dataset's.
        split: of it.
        placement: where they are held.
        fraction: the share of its subjects that is used; those of a smaller share are
            among those of a larger one.
    """

    name: str
    split: str = 'all'
    placement: Placement = 'auto'
    fraction: float = 1.0

    def __post_init__(self):
        if not 0 < self.fraction <= 1:
            raise UserError(
                f'data.fraction is {self.fraction}; above 0, at most 1: a share.'
            )

    def identity(self) -> Json:
        """Gives what of this, beside the set's fingerprint, decides the images."""
        part = {} if self.fraction == 1 else {'fraction': self.fraction}
        return {'split': self.split, **part}


@dataclasses.dataclass(frozen=True)
class Common:
    """What every stage of an experiment shares.

    Attributes:
        seed: of initialisation, shuffles and augmentation.
        encoder: the network's section, JSON.
        dtype: of the computation: 'float32' or 'bfloat16'.
        parallel: 'mesh' or 'pmap'.
        remat: whether gradients compute activations again, to save memory.
        data_dir: where prepared datasets are.
    """

    seed: int
    encoder: Json
    dtype: str
    parallel: str
    remat: bool
    data_dir: str

    def __post_init__(self):
        if self.seed < 0:
            raise UserError(f'config.seed is {self.seed}; at least 0.')
        expect_known(self.parallel, PARALLELS, 'config.parallel')

    def build_encoder(self) -> Any:
        """Makes the encoder network."""
        return build(ENCODERS, self.encoder, where='config.encoder').module(
            DTYPES[self.dtype], remat=self.remat
        )

    def identity(self) -> Json:
        """Gives what of this decides a stage's numbers."""
        return {'seed': self.seed, 'encoder': self.encoder, 'dtype': self.dtype}


@dataclasses.dataclass(frozen=True)
class PretrainPlan:
    """One pretraining stage, as declared.

    Attributes:
        where: the section's name in the config.
        data: the images.
        image_size: height and width of the views, in pixels.
        batch_size: of the global batch.
        epochs: length of the run.
        images_seen: length of the run in images, in place of `epochs`; 0: by epochs.
        method, optimizer, views: sections, JSON.
        positives: what two views show: one 'image', or two images of one 'subject'.
        chunks: how many parts of the batch each device sees one after the other; each
            part has batch statistics of its own.
        log_every: steps between lines of metrics.
        checkpoint_every_epochs: epochs between checkpoints.
        watch: what is measured on the way.
    """

    where: str
    data: DataPlan
    image_size: int
    batch_size: int
    epochs: int
    images_seen: int
    method: Json
    optimizer: Json
    views: Json
    positives: str
    chunks: int
    log_every: int
    checkpoint_every_epochs: int
    watch: WatchPlan

    def __post_init__(self):
        _positive(
            self,
            self.where,
            *('image_size', 'batch_size', 'epochs', 'log_every'),
            *('checkpoint_every_epochs', 'chunks'),
        )
        if self.batch_size < 2 * self.chunks:
            raise UserError(
                f'{self.where}.batch_size is {self.batch_size}, in {self.chunks} '
                'chunk(s): images are compared with others of their chunk, so it needs '
                'at least 2, and many more to learn from.'
            )
        if self.images_seen < 0:
            raise UserError(f'{self.where}.images_seen is below 0.')
        expect_known(self.positives, POSITIVES, f'{self.where}.positives')

    def in_epochs(self, images: int) -> 'PretrainPlan':
        """Says `images_seen` in whole epochs, at least one, of a set of `images`."""
        if not self.images_seen:
            return self
        epoch = max(images // self.batch_size, 1) * self.batch_size
        epochs = max(1, round(self.images_seen / epoch))
        return dataclasses.replace(self, epochs=epochs, images_seen=0)

    def build_optimizer(self) -> Optimizer:
        """Makes the optimiser's declaration."""
        return build(OPTIMIZERS, self.optimizer, where=f'{self.where}.optimizer')

    def build_policies(self) -> tuple[Policy, ...]:
        """Makes one policy per view."""
        return _policies(self.views, self.image_size, f'{self.where}.views')

    def build_objective(self, common: Common, *, steps_per_epoch: int = 1) -> Objective:
        """Makes the method on its encoder, for epochs of so many steps."""
        given = {
            'encoder': common.build_encoder(),
            'policies': self.build_policies(),
            'batch_size': self.batch_size,
            'steps_per_epoch': steps_per_epoch,
            'epochs': self.epochs,
            'dtype': DTYPES[common.dtype],
            'param_dtype': jnp.float32,
        }
        return build(METHODS, self.method, where=f'{self.where}.method', given=given)

    def identity(self) -> Json:
        """Gives what of this decides the stage's numbers."""
        return {
            **self.data.identity(),
            'image_size': self.image_size,
            'batch_size': self.batch_size,
            'epochs': self.epochs,
            'method': self.method,
            'optimizer': self.optimizer,
            'views': self.views,
            'positives': self.positives,
            'chunks': self.chunks,
        }


@dataclasses.dataclass(frozen=True)
class LinearPlan:
    """Logistic regression on frozen features.

    Attributes:
        l2_strengths: the grid, chosen from by validation; 1 / C of scikit-learn.
    """

    l2_strengths: tuple[float, ...]

    def __post_init__(self):
        if not self.l2_strengths or min(self.l2_strengths) < 0:
            raise UserError('finetune.linear.l2_strengths: numbers of at least 0.')

    def identity(self) -> Json:
        """Gives what of this decides the stage's numbers."""
        return {'l2_strengths': list(self.l2_strengths)}


@dataclasses.dataclass(frozen=True)
class KnnPlan:
    """A vote of the nearest neighbours among frozen features.

    Attributes:
        neighbours: the grid of how many vote, chosen from by validation.
    """

    neighbours: tuple[int, ...]

    def __post_init__(self):
        if not self.neighbours or min(self.neighbours) < 1:
            raise UserError('finetune.knn.neighbours: numbers of at least 1.')

    def identity(self) -> Json:
        """Gives what of this decides the stage's numbers."""
        return {'neighbours': list(self.neighbours)}


@dataclasses.dataclass(frozen=True)
class Trial:
    """One point of the grid of full finetuning.

    Attributes:
        rate_per_256: peak learning rate for a batch of 256.
        weight_decay: of weights.
    """

    rate_per_256: float
    weight_decay: float


@dataclasses.dataclass(frozen=True)
class FullPlan:
    """Training of the whole network.

    Attributes:
        batch_size: of the global batch.
        epochs: length of each fold's run; the best epoch by validation is kept.
        grid: `rate_per_256` and `weight_decay`, lists of values that are all tried in
            every fold, the best by validation kept; (): the optimiser's own.
        optimizer, views: sections, JSON.
        checkpoint_every_epochs: epochs between checkpoints.
    """

    batch_size: int
    epochs: int
    grid: Json
    optimizer: Json
    views: Json
    checkpoint_every_epochs: int

    def __post_init__(self):
        where = 'config.finetune.full'
        _positive(self, where, 'batch_size', 'epochs', 'checkpoint_every_epochs')
        if self.batch_size < 2:
            raise UserError(f'{where}.batch_size is 1; at least 2, for BatchNorm.')
        known = [field.name for field in dataclasses.fields(Trial)]
        for name, values in self.grid.items():
            expect_known(name, known, f'field of {where}.grid')
            if not isinstance(values, list | tuple):
                raise UserError(
                    f'{where}.grid.{name} is {values}; values in brackets, such as '
                    f'({values},).'
                )

    def trials(self, optimizer: Optimizer) -> tuple[Trial, ...]:
        """Gives the points of the grid, for an optimiser whose own values fill it."""
        rates = self.grid.get('rate_per_256') or [optimizer.rate_per_256]
        decays = self.grid.get('weight_decay') or [optimizer.weight_decay]
        return tuple(Trial(rate, decay) for rate in rates for decay in decays)

    def identity(self) -> Json:
        """Gives what of this decides the stage's numbers."""
        return {
            'batch_size': self.batch_size,
            'epochs': self.epochs,
            'grid': self.grid,
            'optimizer': self.optimizer,
            'views': self.views,
        }


@dataclasses.dataclass(frozen=True)
class FinetunePlan:
    """Finetuning and its evaluation, as declared.

    Attributes:
        data: the labelled images.
        task: of `data.labels.TASKS`.
        modes: of `MODES`, in the order of the table.
        image_size: height and width of the network's input, in pixels.
        slices_per_group: the central slices of a subject that are used; 0 for all.
        division: of `data.divisions.DIVISIONS`: who is on which side.
        folds: of the cross-validation.
        fold_seed: which of the possible folds.
        label_fraction: the share of the training subjects that is used.
        shuffle_labels: a control: the labels of subjects are shuffled.
        covariates: a CSV file about the subjects; '': none.
        where: which images are used, a condition on its columns; '': all.
        evaluation_batch_size: of the global batch in evaluation.
        bootstrap_resamples: behind every interval.
        prevalence: of what is not the first class, behind predictive values; 0: the
            sample's.
        linear, knn, full: the modes.
    """

    data: DataPlan
    task: str
    modes: tuple[str, ...]
    image_size: int
    slices_per_group: int
    division: str
    folds: int
    fold_seed: int
    label_fraction: float
    shuffle_labels: bool
    covariates: str
    where: str
    evaluation_batch_size: int
    bootstrap_resamples: int
    prevalence: float
    evaluation_view: Json
    linear: LinearPlan
    knn: KnnPlan
    full: FullPlan

    def __post_init__(self):
        _positive(
            self,
            'config.finetune',
            *('image_size', 'evaluation_batch_size', 'bootstrap_resamples'),
        )
        if self.fold_seed < 0:
            raise UserError(f'finetune.fold_seed is {self.fold_seed}; at least 0.')
        for op in self.evaluation_view:
            if op.get('name') not in _NOT_RANDOM:
                raise UserError(
                    f'config.finetune.evaluation_view has {op.get("name")}; it is the '
                    f'same each time, of {", ".join(_NOT_RANDOM)}.'
                )
        if self.folds < 3:
            raise UserError(f'finetune.folds is {self.folds}; at least 3.')
        if self.data.fraction != 1:
            raise UserError(
                'finetune.data.fraction is for pretraining; of labelled subjects, '
                'finetune.label_fraction.'
            )
        if self.slices_per_group < 0:
            raise UserError('finetune.slices_per_group is negative; 0 means all.')
        expect_known(self.task, TASKS, 'finetune.task')
        expect_known(self.division, DIVISIONS, 'finetune.division')
        if not 0 < self.label_fraction <= 1:
            raise UserError(
                f'finetune.label_fraction is {self.label_fraction}; above 0, at most 1.'
            )
        if not 0 <= self.prevalence < 1:
            raise UserError(
                f'finetune.prevalence is {self.prevalence}; a share of 1, such as 0.1, '
                "or 0 for the sample's."
            )
        if not self.modes:
            raise UserError(f'finetune.modes is empty; of {", ".join(MODES)}.')
        for mode in self.modes:
            expect_known(mode, MODES, 'mode in finetune.modes')

    def build_evaluation_policy(self) -> Policy:
        """Makes the view that evaluation looks at."""
        view = self.sized_evaluation_view()
        return build_policy(view, where='finetune.evaluation_view')

    def sized_evaluation_view(self) -> Json:
        """Gives the view that evaluation looks at, with the size of its crop."""
        return _sized(self.evaluation_view, self.image_size)

    def build_training_policy(self) -> Policy:
        """Makes the view that full finetuning learns from."""
        views = self.full.views
        if len(views) != 1:
            raise UserError(
                f'config.finetune.full.views has {len(views)} views; full finetuning '
                'learns from one of each image.'
            )
        return _policies(views, self.image_size, 'finetune.full.views')[0]

    def build_optimizer(self) -> Optimizer:
        """Makes the optimiser's declaration of full finetuning."""
        where = 'finetune.full.optimizer'
        built: Optimizer = build(OPTIMIZERS, self.full.optimizer, where=where)
        rates = [built.rate_per_256, *self.full.grid.get('rate_per_256', ())]
        if min(rates) <= 0:
            raise UserError(f'{where}: rate_per_256 is {min(rates)}; above 0.')
        return built

    def identity(self, mode: str) -> Json:
        """Gives what of this decides the numbers of one mode."""
        plans: dict[str, LinearPlan | KnnPlan | FullPlan] = {
            'linear': self.linear,
            'knn': self.knn,
            'full': self.full,
        }
        return {
            'split': self.data.split,
            'task': self.task,
            'mode': mode,
            'image_size': self.image_size,
            'slices_per_group': self.slices_per_group,
            'division': self.division,
            'folds': self.folds,
            'fold_seed': self.fold_seed,
            'label_fraction': self.label_fraction,
            'shuffle_labels': self.shuffle_labels,
            'evaluation_view': self.evaluation_view,
            **plans[mode].identity(),
        }


@dataclasses.dataclass(frozen=True)
class ReportPlan:
    """What the page shows. It decides no stage's numbers.

    Attributes:
        pictures: whether it shows pictures of subjects.
        saliency: whether saliency maps are made, and shown with the pictures.
    """

    pictures: bool
    saliency: bool


OVERLAPS = ('refuse', 'leave_out', 'allow')


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A whole experiment: a chain of pretraining stages, then finetuning.

    Attributes:
        name: for its folder and its rows in tables.
        common: what every stage shares.
        chain: the pretraining stages, each from the one before; empty: untrained.
        init_from: what the first of them, or finetuning where there is none, starts
            from: a stage's folder or a file of weights; '': random weights.
        finetune: what is asked of the encoder.
        overlap: what becomes of images of pretraining that show labelled subjects:
            'refuse', 'leave_out' or 'allow'.
        report: what the page shows.
        notes: sentences that a reader of its results must know besides.
    """

    name: str
    common: Common
    chain: tuple[PretrainPlan, ...]
    init_from: str
    finetune: FinetunePlan
    overlap: str
    report: ReportPlan
    notes: tuple[str, ...] = ()


def read_experiment(config: ConfigDict) -> Experiment:
    """Makes the plans that a config declares.

    Raises:
        UserError: names the field that is wrong.
    """
    fields = config.to_dict()
    dtype = fields['compute']
    if dtype == 'auto':
        dtype = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
    expect_known(dtype, DTYPES, 'config.compute')
    expect_known(fields['overlap'], OVERLAPS, 'config.overlap')
    common = Common(
        seed=fields['seed'],
        encoder=_json(fields['encoder']),
        dtype=dtype,
        parallel=fields['parallel'],
        remat=fields['remat'],
        data_dir=fields['data_dir'],
    )
    chain = []
    for where in fields['chain']:
        expect_known(where, fields, 'section in config.chain')
        section = _json(fields[where])
        named = f'config.{where}'
        section['data'] = _data(section['data'], f'{named}.data')
        section['watch'] = _plan(WatchPlan, section['watch'], f'{named}.watch')
        chain.append(_plan(PretrainPlan, section | {'where': named}, named))
    finetune = _json(fields['finetune'])
    finetune['data'] = _data(finetune['data'], 'config.finetune.data')
    for name, kind in (('linear', LinearPlan), ('knn', KnnPlan), ('full', FullPlan)):
        finetune[name] = _plan(kind, finetune[name], f'config.finetune.{name}')
    experiment = Experiment(
        name=fields['name'],
        common=common,
        chain=tuple(chain),
        init_from=fields['init_from'],
        finetune=_plan(FinetunePlan, finetune, 'config.finetune'),
        overlap=fields['overlap'],
        report=_plan(ReportPlan, _json(fields['report']), 'config.report'),
    )
    _try_out(experiment)
    return experiment


def _try_out(experiment: Experiment) -> None:
    """Builds everything once, so that mistakes show before any work is done."""
    experiment.common.build_encoder()
    for plan in experiment.chain:
        plan.build_objective(experiment.common)
        plan.build_optimizer()
    experiment.finetune.build_evaluation_policy()
    experiment.finetune.build_training_policy()
    experiment.finetune.build_optimizer()


def _data(section: Mapping[str, Any], where: str) -> DataPlan:
    plan: DataPlan = _plan(DataPlan, section, where)
    expect_known(plan.placement, PLACEMENTS, f'{where}.placement')
    return plan


def _plan(kind: Any, section: Mapping[str, Any], where: str) -> Any:
    fields = dataclasses.fields(kind)
    known = [field.name for field in fields]
    for name in section:
        expect_known(name, known, f'field of {where}')
    for field in fields:
        if field.name not in section and field.default is dataclasses.MISSING:
            raise UserError(f'{where}.{field.name} is missing.')
    try:
        values = typed(kind, section)
    except UserError as error:
        raise UserError(f'{where}: {error}') from error
    return kind(**values)


def _policies(views: Json, size: int, where: str) -> tuple[Policy, ...]:
    """Makes policies, with `size` for the crops that name none."""
    return tuple(
        build_policy(_sized(view, size), where=f'{where}[{index}]')
        for index, view in enumerate(views)
    )


def _sized(view: Json, size: int) -> Json:
    """Gives a view whose crop names its size: `size`, where it named none.

    A crop with a `size_fraction` gets that part of it, to the nearest multiple of 8.
    """
    if not view:
        return view  # which is no policy
    first, *rest = view
    crop = dict(first)
    part = max(8, round(size * crop.pop('size_fraction', 1.0) / 8) * 8)
    own = part if 'size_fraction' in first else size
    return [{'size': own, **crop}, *rest]


def _json(value: Any) -> Any:
    """Copies plain values; tuples become lists, as they do in JSON."""
    if isinstance(value, Mapping):
        return {k: _json(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_json(v) for v in value]
    return value


def _positive(plan: Any, where: str, *names: str) -> None:
    for name in names:
        if getattr(plan, name) < 1:
            raise UserError(f'{where}.{name} is {getattr(plan, name)}; at least 1.')
