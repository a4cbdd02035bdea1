"""What a study's tables and page say, as plain facts."""

import dataclasses
from collections.abc import Mapping, Sequence

from jax_mrissl.core.results import Estimate, Unit


@dataclasses.dataclass(frozen=True)
class StudyArm:
    """One way to make an encoder, put to the task in one mode; over all seeds.

    Attributes:
        method: of pretraining; '': none; 'init_from': none but the weights that the
            config names.
        chain: the domains that it was pretrained on; '': none.
        share: of the subjects of the last of them.
        mode: 'linear', 'knn' or 'full'.
        seeds: how many trainings stand behind the numbers.
        of_seeds: how many should.
        estimates: by unit and metric, the mean over seeds, with the interval of a
            bootstrap over subjects.
        spread: the lowest and the highest headline of a seed; None: one seed.
        difference: to the untrained encoder in the same mode, in the headline; None:
            there is none, or it is not compared.
        holm_p: of that, corrected for all that are compared in its setting.
        failure: why it is no result; '': it is one.
        seen: tested subjects that pretraining has seen.
        collapsed: whether a stage of its pretraining ended with signs of a collapse.
        seconds: that its stages took, by the clock; None: not known.
        page: the page of its experiment with the first seed, relative to the study's.
    """

    method: str
    chain: str
    share: float
    mode: str
    seeds: int
    of_seeds: int
    estimates: Mapping[tuple[Unit, str], Estimate]
    spread: tuple[float, float] | None = None
    difference: Estimate | None = None
    holm_p: float | None = None
    failure: str = ''
    seen: int = 0
    collapsed: bool = False
    seconds: float | None = None
    page: str = ''

    @property
    def name(self) -> str:
        """What it is, but for the mode."""
        if not self.method:
            return 'untrained'
        if not self.chain:
            return self.method
        part = '' if self.share == 1 else f', {100 * self.share:g} % of the subjects'
        return f'{self.method} on {words_of(self.chain)}{part}'

    @property
    def marks(self) -> str:
        """What must stand behind its number wherever that is shown."""
        lacking = self.seeds < self.of_seeds
        return (
            f'{f" ({self.seeds} of {self.of_seeds} seeds)" if lacking else ""}'
            f'{" (seen)" if self.seen else ""}'
            f'{" (collapsed)" if self.collapsed else ""}'
        )


@dataclasses.dataclass(frozen=True)
class SettingFacts:
    """Arms that are compared with each other.

    Attributes:
        target: its name in the study's config.
        dataset: the labelled set.
        title: what is asked, of which images.
        label_fraction: the share of the training subjects.
        subjects, slices: that are tested.
        headline: the metric that decides.
        arms: the untrained ones first.
        baselines: a name and the headline by unit, of what has no network.
        published: by method and chain, the student report's log loss; '': untrained.
            Empty where it asked something else.
        leaky: whether images of one subject are in training and in test.
        shuffled: whether it is the control of shuffled labels.
        warnings: what a reader of its folds must know.
    """

    target: str
    dataset: str
    title: str
    label_fraction: float
    subjects: int
    slices: int
    headline: str
    arms: tuple[StudyArm, ...]
    baselines: tuple[tuple[str, Mapping[Unit, Estimate]], ...]
    published: Mapping[tuple[str, str], float]
    leaky: bool = False
    shuffled: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def marks(self) -> str:
        """What must stand beside its name wherever its numbers are shown."""
        return (
            f'{", LEAKY" if self.leaky else ""}{", CONTROL" if self.shuffled else ""}'
        )

    @property
    def labels(self) -> str:
        """How many labels there were, to stand behind its target; '': all."""
        if self.label_fraction == 1:
            return ''
        return f', {100 * self.label_fraction:g} % of the labels'

    @property
    def modes(self) -> list[str]:
        """Of its arms, in their order."""
        return list(dict.fromkeys(arm.mode for arm in self.arms))

    def arm(self, method: str, chain: str, share: float, mode: str) -> StudyArm | None:
        """Finds an arm; None: the study has none there."""
        wanted = (method, chain, share, mode)
        for arm in self.arms:
            if (arm.method, arm.chain, arm.share, arm.mode) == wanted:
                return arm
        return None


@dataclasses.dataclass(frozen=True)
class StudyFacts:
    """A study.

    Attributes:
        name: its own.
        simulated: whether any of its images are.
        methods, chains, shares: the rows and columns of its tables.
        settings: what was asked.
        findings: sentences that the statistics support.
        notes: sentences that a reader needs to believe the numbers.
        failures: what could not be done: which, and why.
        provenance: names and values: versions, hardware, seeds, data.
        command: what repeats it; '': not known.
    """

    name: str
    simulated: bool
    methods: tuple[str, ...]
    chains: tuple[str, ...]
    shares: tuple[float, ...]
    settings: tuple[SettingFacts, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]
    provenance: tuple[tuple[str, str], ...]
    command: str


def warnings_of(settings: Sequence[SettingFacts]) -> list[str]:
    """Gives the warnings of settings, each once, with the settings that have it."""
    found: dict[str, list[str]] = {}
    for setting in settings:
        for warning in setting.warnings:
            found.setdefault(warning, []).append(setting.target)
    return [
        f'{", ".join(dict.fromkeys(targets))}: {text}'
        for text, targets in found.items()
    ]


def words_of(chain: str) -> str:
    """Writes a chain for people: 'natural, then brain'."""
    return chain.replace('>', ', then ')
