"""A study's config read: the cells of its grid, each an experiment."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from ml_collections import ConfigDict

from jax_mrissl.core.digest import digest
from jax_mrissl.core.errors import UserError, expect_known
from jax_mrissl.tasks.from_config import MODES, Experiment, read_experiment
from jax_mrissl.tasks.pooling import UNTRAINED

StudyConfig: TypeAlias = ConfigDict
Value: TypeAlias = int | float | str | bool
# By dotted field of a section of pretraining: what stands there instead.
Settings: TypeAlias = Mapping[str, Value]
# Between the domains of a chain, in the config and in tables.
AFTER = '>'
_SECTIONS = ('study', 'search', 'methods', 'domains', 'targets', 'pretrain')
SALIENCY = ('none', 'finalists', 'all')


@dataclasses.dataclass(frozen=True)
class Grid:
    """Which cells a study has: the section `study` of its config.

    Attributes:
        methods: of the section `methods`.
        chains: domains, one after the other with '>' between.
        targets: of the section `targets`.
        seeds: of everything that is drawn at random in training.
        label_fractions: shares of the training subjects.
        pretraining_fractions: shares of the subjects of a chain's last domain.
        modes: of finetuning, in every cell.
        finalists: how many pretrained encoders, the best by validation in the first
            mode, are finetuned in `final_modes`, too.
        final_modes: those.
        saliency: whose experiments' pages show what the networks look at: of 'none',
            of what is finetuned in `final_modes` ('finalists'), or of 'all'.
    """

    methods: tuple[str, ...]
    chains: tuple[str, ...]
    targets: tuple[str, ...]
    seeds: tuple[int, ...]
    label_fractions: tuple[float, ...]
    pretraining_fractions: tuple[float, ...]
    modes: tuple[str, ...]
    finalists: int
    final_modes: tuple[str, ...]
    saliency: str

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            may_be_empty = ('final_modes', 'methods', 'chains')
            if value == () and field.name not in may_be_empty:
                raise UserError(f'config.study.{field.name} is empty.')
            if isinstance(value, tuple) and len(set(value)) < len(value):
                raise UserError(f'config.study.{field.name} names one thing twice.')
        for mode in (*self.modes, *self.final_modes):
            expect_known(mode, MODES, 'mode in config.study')
        if self.finalists < 0:
            raise UserError('config.study.finalists is negative; 0 means none.')
        expect_known(self.saliency, SALIENCY, 'config.study.saliency')


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the arms that are compared with each other have in common.

    Attributes:
        target: what is asked.
        label_fraction: the share of the training subjects.
    """

    target: str
    label_fraction: float

    @property
    def name(self) -> str:
        """For files and people."""
        if self.label_fraction == 1:
            return self.target
        return f'{self.target}, {100 * self.label_fraction:g} % of the labels'


@dataclasses.dataclass(frozen=True)
class Encoder:
    """How an encoder was made, but for the seed.

    Attributes:
        method, chain: '' for the untrained one.
        fraction: of the subjects of the last domain.
    """

    method: str = ''
    chain: str = ''
    fraction: float = 1.0

    @property
    def name(self) -> str:
        """For tables; '': the untrained one."""
        if not self.method:
            return ''
        share = '' if self.fraction == 1 else f' ({100 * self.fraction:g} %)'
        return f'{self.method} {self.chain}{share}'.strip()


# The weights of `config.init_from` as they are. They stand in the untrained one's cell.
STARTED = Encoder('init_from')


@dataclasses.dataclass(frozen=True)
class Cell:
    """One experiment of the grid.

    Attributes:
        encoder, setting, seed: where it stands.
        experiment: the plans; where folds have plans of their own, the first fold's.
        by_fold: the plans of each fold; (): all folds have the same.
        refused: why it cannot be run; '': it may be.
    """

    encoder: Encoder
    setting: Setting
    seed: int
    experiment: Experiment
    by_fold: tuple[Experiment, ...] = ()
    refused: str = ''

    @property
    def folder(self) -> str:
        """The name of its folder, of letters that any file system takes."""
        parts = [
            *filter(None, (self.encoder.method, self.encoder.chain)),
            self.setting.target,
            f'seed{self.seed}',
        ]
        if self.setting.label_fraction != 1:
            parts.append(f'labels{100 * self.setting.label_fraction:g}')
        if self.encoder.fraction != 1:
            parts.append(f'images{100 * self.encoder.fraction:g}')
        return '_'.join(parts).replace(AFTER, '-then-')


def read_grid(config: StudyConfig) -> Grid:
    """Reads which cells there are.

    Raises:
        UserError: names the field that is wrong.
    """
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list | tuple) else value
        for name, value in config.study.to_dict().items()
    }
    known = [field.name for field in dataclasses.fields(Grid)]
    for name in fields:
        expect_known(name, known, 'field of config.study')
    grid = Grid(**fields)
    for method in grid.methods:
        expect_known(method, config.methods.to_dict(), 'method in config.study.methods')
    for target in grid.targets:
        expect_known(target, config.targets.to_dict(), 'target in config.study.targets')
    for chain in grid.chains:
        for domain in chain.split(AFTER):
            known = list(config.domains.to_dict())
            expect_known(domain, known, f'domain in config.study.chains, {chain!r}')
    return grid


def trained_as(experiment: Experiment) -> str:
    """Tells how an encoder is trained and probed, whatever the seed."""
    common, asked = experiment.common.identity(), experiment.finetune
    return digest(
        [
            {**common, 'seed': 0},
            experiment.init_from,
            experiment.overlap,
            [
                {
                    **plan.identity(),
                    'data': plan.data.name,
                    'images_seen': plan.images_seen,
                }
                for plan in experiment.chain
            ],
            {**asked.identity('linear'), 'data': asked.data.name},
        ]
    )


class Chosen(Protocol):
    """Settings of pretraining that were chosen, fold by fold."""

    def settings(self, encoder: Encoder, setting: Setting) -> tuple[Settings, ...]:
        """Gives those of each fold.

        Raises:
            UserError: none were chosen.
        """

    def notes(
        self, encoder: Encoder, setting: Setting, experiments: Sequence[Experiment]
    ) -> tuple[str, ...]:
        """Says how those of each fold's experiment were chosen."""


def cells(
    config: StudyConfig,
    grid: Grid,
    *,
    extra: Mapping[Encoder, Sequence[str]],
    chosen: Chosen | None = None,
) -> list[Cell]:
    """Gives the experiments of a study, in the order of its tables.

    Each has the untrained encoder beside its own; there is one with it alone, too, or
    with it and the weights of `config.init_from`.

    Args:
        config: the study's.
        grid: its cells.
        extra: more modes, of some encoders.
        chosen: settings of pretraining, in place of the config's; None: the config's.

    Raises:
        UserError: names the field that is wrong.
    """
    encoders = [
        Encoder(),
        *(
            Encoder(method, chain, fraction)
            for chain, method, fraction in itertools.product(
                grid.chains, grid.methods, grid.pretraining_fractions
            )
        ),
    ]
    found = []
    for setting, encoder, seed in itertools.product(
        settings_of(grid), encoders, grid.seeds
    ):
        modes = tuple(dict.fromkeys([*grid.modes, *extra.get(encoder, ())]))

        looked_at = grid.saliency == 'finalists' and encoder in extra
        made = functools.partial(
            experiment_of,
            config,
            encoder,
            setting,
            seed,
            modes,
            saliency=looked_at or grid.saliency == 'all',
        )
        if not chosen or not encoder.method:
            found.append(Cell(encoder, setting, seed, made(settings={})))
            continue
        try:
            own = chosen.settings(encoder, setting)
        except UserError as error:
            plain = made(settings={})
            found.append(Cell(encoder, setting, seed, plain, refused=str(error)))
            continue
        by_fold = tuple(made(settings=settings) for settings in own)
        notes = chosen.notes(encoder, setting, by_fold)
        by_fold = tuple(dataclasses.replace(one, notes=notes) for one in by_fold)
        found.append(Cell(encoder, setting, seed, by_fold[0], by_fold))
    return found


def settings_of(grid: Grid) -> list[Setting]:
    """Gives what is asked of every encoder."""
    return [
        Setting(target, fraction)
        for target, fraction in itertools.product(grid.targets, grid.label_fractions)
    ]


def experiment_of(
    config: StudyConfig,
    encoder: Encoder,
    setting: Setting,
    seed: int,
    modes: tuple[str, ...],
    *,
    settings: Settings,
    saliency: bool = False,
) -> Experiment:
    """Gives one experiment of a study, as `main` would have it.

    Args:
        config: the study's.
        encoder, setting, seed, modes: which.
        settings: of every stage of pretraining, in place of the config's.
        saliency: whether its page shows what its networks look at.

    Raises:
        UserError: names the field that is wrong.
    """
    fields: dict[str, Any] = config.to_dict()
    made = {k: v for k, v in fields.items() if k not in _SECTIONS}
    made['seed'] = seed
    made['name'] = encoder.name or (STARTED.name if made['init_from'] else UNTRAINED)
    made['report'] = {**fields['report'], 'saliency': saliency}
    made['finetune'] = {
        **fields['finetune'],
        **fields['targets'][setting.target],
        'modes': modes,
        'label_fraction': setting.label_fraction,
    }
    domains = encoder.chain.split(AFTER) if encoder.chain else []
    made['chain'] = []
    for number, name in enumerate(domains):
        domain = fields['domains'][name]
        views = domain.get('views', {})
        if encoder.method not in views:
            raise UserError(
                f'config.domains.{name}.views has no {encoder.method}: the views that '
                'this method learns from on these images.'
            )
        if 'data' not in domain:
            raise UserError(f'config.domains.{name}.data is missing: which images.')
        section = {**fields['pretrain'], **fields['methods'][encoder.method]}
        section['data'] = {'placement': 'auto', **domain['data']}
        section['views'] = views[encoder.method]
        if domain.get('epochs'):
            section.update(epochs=domain['epochs'], images_seen=0)
        if number == len(domains) - 1:
            section['data']['fraction'] = encoder.fraction
        where = f'pretrain{number}_{name}'
        made[where] = _with_settings(section, settings)
        made['chain'].append(where)
    return read_experiment(ConfigDict(made))


def _with_settings(section: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    made = dict(section)
    for dotted, value in settings.items():
        *path, last = dotted.split('.')
        place = made
        for name in path:
            place[name] = dict(place[name])
            place = place[name]
        place[last] = value
    return made
