import copy
import dataclasses
import functools
import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_mrissl.augment.policy import Policy
from jax_mrissl.core.errors import UserError
from jax_mrissl.metrics.probes import knn_accuracy, linear_accuracy
from jax_mrissl.metrics.spread import (
    alignment,
    effective_rank,
    embedding_std,
    uniformity,
)
from jax_mrissl.models import ENCODERS
from jax_mrissl.tasks.watch import (
    Collapsed,
    ProbeSet,
    Watch,
    WatchPlan,
    collapse_signs,
)
from jax_mrissl.train.loop import TrainingDiverged
from jax_mrissl.train.parallel import MeshParallel, Traces
from jax_mrissl.train.state import TrainState

SIZE = 16
STEPS_PER_EPOCH = 4
SPREAD = ['alignment', 'effective_rank', 'embedding_std', 'uniformity']
PROBES = ['knn_accuracy', 'linear_accuracy', 'probe_chance']
REMEDY = 'Feed it more fish.'


@dataclasses.dataclass(frozen=True)
class Images:
    """As much of a prepared set as is looked at."""

    pixels: np.ndarray
    windows = None

    @property
    def labels(self):
        return np.full(len(self), -1, np.int32)

    @property
    def group_numbers(self):
        return np.arange(len(self), dtype=np.int32)

    def __len__(self):
        return len(self.pixels)

    @property
    def boxes(self):
        return np.tile(np.array([[0, 0, SIZE, SIZE]], np.int32), (len(self), 1))

    def all_images(self):
        return self.pixels

    def select(self, rows):
        return Images(self.pixels[rows])


def noise(count, seed=0):
    rng = np.random.default_rng(seed)
    return Images(rng.integers(0, 256, (count, SIZE, SIZE, 1)).astype(np.uint8))


def halves(count, seed=0):
    """Images whose class is which half of them is bright."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = rng.integers(0, 80, (count, SIZE, SIZE, 1))
    for image, label in zip(pixels, labels, strict=True):
        image[SIZE // 2 * label : SIZE // 2 * (1 + label)] += 150
    return Images(pixels.astype(np.uint8)), labels


def as_it_is(key, image, box):
    del key, box
    return image


def noisy(key, image, box):
    del box
    return image + 0.1 * jax.random.normal(key, image.shape)


class Pixels(nn.Module):
    """A coarse picture of the image, from which `weight` takes the differences."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        weight = self.param('weight', nn.initializers.ones, ())
        tiles = images.reshape(len(images), 4, 4, 4, 4).mean((2, 4))
        return 1.0 + weight * tiles.reshape(len(images), -1)


@dataclasses.dataclass(frozen=True)
class Method:
    encoder: nn.Module = dataclasses.field(default_factory=Pixels)
    remedies: tuple[str, ...] = (REMEDY,)


PLAN = WatchPlan(
    images=24,
    every_epochs=1,
    probe_every_epochs=2,
    neighbours=3,
    probe_images=20,
    on_collapse='warn',
)


def make_watch(prepared=None, probe_set=None, method=None, **changes):
    return Watch(
        dataclasses.replace(PLAN, **changes),
        method or Method(),
        prepared or noise(30),
        probe_set,
        evaluation_policy=Policy(as_it_is),
        training_policies=(Policy(noisy), Policy(noisy), Policy(as_it_is)),
        steps_per_epoch=STEPS_PER_EPOCH,
        steps=100 * STEPS_PER_EPOCH,
        call_every=STEPS_PER_EPOCH,
    )


@functools.cache
def compiled():
    return make_watch(probe_set=labelled(), probe_images=100)


def fresh_watch(**changes):
    """A watch that has seen nothing, with programs that need not be compiled again."""
    watch = copy.copy(compiled())
    watch._plan = dataclasses.replace(watch._plan, **changes)
    watch._history, watch._announced = [], set()
    return watch


def make_state(step=STEPS_PER_EPOCH, weight=1.0):
    params = {'encoder': {'weight': jnp.float32(weight)}, 'head': {}}
    return TrainState(
        jnp.int32(step), params, {'encoder': {}, 'head': {}}, opt_state=()
    )


def labelled(count=40, held=12):
    images, labels = halves(count)
    rows = np.arange(count)
    return ProbeSet(images, labels, rows[:-held], rows[-held:], ('top', 'bottom'))


def embeddings(images):
    views = images.pixels / np.float32(255)
    return np.asarray(Pixels().apply({'params': {'weight': 1.0}}, views, train=False))


def test_measures_the_chosen_images_as_the_metrics_do():
    images = noise(30)
    values = fresh_watch()(make_state(), {'loss': 1.0})
    assert sorted(values) == SPREAD
    rows = np.linspace(0, 29, 24).astype(int)
    expected = embeddings(images.select(rows))
    assert values['embedding_std'] == pytest.approx(embedding_std(expected), rel=1e-4)
    assert values['effective_rank'] == pytest.approx(effective_rank(expected), rel=1e-4)


def test_views_are_two_draws_of_the_same_images():
    watch = fresh_watch()
    whole, view1, view2 = watch._views(make_state())
    # The noise of a tile: 0.1 over 16 pixels; of the difference of two, √2 times it.
    assert (view1 - whole).std() == pytest.approx(0.025, rel=0.1)
    assert (view1 - view2).std() == pytest.approx(0.025 * np.sqrt(2), rel=0.1)
    values = watch.measure(make_state())
    assert values['alignment'] == pytest.approx(alignment(view1, view2))
    assert values['uniformity'] == pytest.approx(uniformity(view1))


def test_the_same_state_measures_the_same_every_time():
    watch = fresh_watch()
    state = make_state(2 * STEPS_PER_EPOCH)
    assert watch(state, {}) == watch(state, {})
    assert make_watch(probe_set=labelled(), probe_images=100)(state, {}) == watch(
        state, {}
    )


def test_more_images_than_a_batch_are_embedded_in_order(monkeypatch):
    from jax_mrissl.tasks import watch

    images = noise(23)
    monkeypatch.setattr(watch, '_BATCH_SIZE', 8)
    parts = make_watch(images, images=23)
    found, *_ = parts._views(make_state())
    # float32 sums in another order.
    np.testing.assert_allclose(found, embeddings(images), rtol=1e-5)


def test_probes_come_in_their_epochs_alone():
    watch = fresh_watch()
    for epoch in range(1, 5):
        values = watch(make_state(epoch * STEPS_PER_EPOCH), {})
        assert sorted(values) == sorted(SPREAD + PROBES * (epoch % 2 == 0))


def test_probes_come_at_the_first_call_after_theirs():
    watch = fresh_watch()  # they are due at 0, 8, 16, 24
    watch._call_every = 3
    calls = [0, 3, 6, 9, 12, 15, 18, 21, 24]
    probed = ['knn_accuracy' in watch(make_state(step), {}) for step in calls]
    assert probed == [step in (0, 9, 18, 24) for step in calls]


@pytest.mark.parametrize('kinds', [dict(probe_every_epochs=0), dict(probe_set=None)])
def test_no_probes_where_none_are_asked_for(kinds):
    # Nothing is made that could be probed, so nothing is decoded or compiled.
    assert make_watch(**{'probe_set': labelled(), **kinds})._probe is None


def test_probes_learn_from_train_and_are_held_against_held():
    probe_set = labelled()
    values = fresh_watch()(make_state(2 * STEPS_PER_EPOCH), {})
    rows = embeddings(probe_set.prepared)
    train, held = probe_set.train, probe_set.held
    known = (rows[train], probe_set.labels[train], rows[held], probe_set.labels[held])
    assert values['knn_accuracy'] == knn_accuracy(*known, classes=2, neighbours=3) == 1
    assert values['linear_accuracy'] == linear_accuracy(*known, classes=2) == 1
    assert values['probe_chance'] == 0.5


def test_other_rows_are_never_embedded():
    """Neither what is left of `train` beyond its number, nor what is in neither."""
    probe_set = labelled()
    probe_set = dataclasses.replace(probe_set, train=probe_set.train[5:])
    watch = make_watch(probe_set=probe_set, probe_images=10)
    looked_at = watch._probe._embeddings._prepared.pixels
    allowed = probe_set.prepared.pixels[5:]
    assert len(looked_at) == 10 + len(probe_set.held)
    for image in looked_at:
        assert (image == allowed).all((1, 2, 3)).any()


def test_shuffled_labels_are_told_by_chance_alone():
    rng = np.random.default_rng(0)
    probe_set = labelled(200, held=100)
    probe_set = dataclasses.replace(probe_set, labels=rng.permutation(probe_set.labels))
    watch = make_watch(probe_set=probe_set, probe_images=100)
    values = watch(make_state(2 * STEPS_PER_EPOCH), {})
    # One half, give or take three standard errors of 0.05.
    assert values['knn_accuracy'] == pytest.approx(0.5, abs=0.15)
    assert values['linear_accuracy'] == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(('train', 'held'), [([0, 2, 4], [1]), ([0, 1], [])])
def test_probes_that_cannot_be_are_refused_before_training(train, held):
    probe_set = dataclasses.replace(
        labelled(), train=np.array(train), held=np.array(held, int)
    )
    with pytest.raises(UserError, match=r'two classes.*probe_every_epochs to 0'):
        make_watch(probe_set=probe_set)


def test_the_encoder_is_compiled_once_and_nothing_is_moved_unseen():
    traces = Traces()

    class Counted(Pixels):
        @nn.compact
        def __call__(self, images, *, train):
            return traces.counted(
                lambda: super(Counted, self).__call__(images, train=train)
            )()

    images, labels = halves(64)
    probe_set = ProbeSet(images, labels, np.arange(12), np.arange(12, 24), ('a', 'b'))
    # As a run holds it.
    everywhere = MeshParallel(tuple(jax.devices()))
    state = everywhere.replicate(make_state(2 * STEPS_PER_EPOCH))
    with jax.transfer_guard('disallow'):
        watch = make_watch(images, probe_set, Method(Counted()))
        watch(state, {})
        watch(state, {})
    # 24 images of either set, whole and in two views: one shape.
    assert traces.count == 1


def test_a_fresh_encoder_raises_no_alarm():
    encoder = ENCODERS['resnet_tiny']().module()
    draw = jax.jit(lambda key, x: encoder.init(key, x, train=True))
    variables = draw(jax.random.key(0), jnp.zeros((2, SIZE, SIZE, 1)))
    params = variables.pop('params')
    state = TrainState(
        jnp.int32(4), {'encoder': params}, {'encoder': variables}, opt_state=()
    )
    watch = make_watch(method=Method(encoder), on_collapse='stop')
    # Nor do a loss and prototypes that have not been trained.
    values = watch(state, {'loss': 3.0, 'chance_loss': 3.0, 'dead_prototypes': 1.0})
    # Far from the 1 of random directions: after a ReLU all rows share one.
    assert 0.02 < values['embedding_std'] < 0.5


def test_a_collapse_is_told_once_with_remedies(caplog):
    watch = fresh_watch()
    watch.recall([watch.measure(make_state())])
    with caplog.at_level(logging.WARNING):
        watch(make_state(4), {})
        assert not caplog.records
        watch(make_state(8, weight=0.0), {})
        watch(make_state(12, weight=0.0), {})
    [record] = caplog.records
    text = record.getMessage()
    assert text.startswith('Step 8: signs of a collapse. embedding_std is ')
    assert 'effective_rank is 1' in text
    assert REMEDY in text
    assert 'samples/views.png' in text


def test_another_kind_of_sign_is_told_anew(caplog):
    watch = fresh_watch()
    with caplog.at_level(logging.WARNING):
        watch(make_state(40, weight=0.0), {})
        for step in (44, 48):
            watch(make_state(step, weight=0.0), {'dead_prototypes': 0.95})
    first, second = (record.getMessage() for record in caplog.records)
    assert 'embedding_std' in first
    assert 'embedding_std' not in second
    assert '95.0% of the prototypes' in second


def test_stop_raises_with_step_values_and_remedies():
    watch = fresh_watch(on_collapse='stop')
    watch(make_state(4), {})
    with pytest.raises(Collapsed, match=r'Step 8: .*embedding_std') as error:
        watch(make_state(8, weight=0.0), {})
    assert isinstance(error.value, UserError)
    assert REMEDY in str(error.value)
    assert "watch.on_collapse to 'warn'" in str(error.value)


def test_embeddings_that_are_not_finite_are_a_divergence():
    with pytest.raises(TrainingDiverged, match=r'infinite at step 4.*rate_per_256'):
        fresh_watch()(make_state(weight=np.nan), {})


def measured(std=0.3, rank=20.0, epoch=10.0, **more):
    return {'embedding_std': std, 'effective_rank': rank, 'epoch': epoch, **more}


@pytest.mark.parametrize(
    ('now', 'before', 'kinds'),
    [
        # As fresh encoders were measured: the lowest of each.
        (measured(0.01, 1.1), [], []),
        (measured(0.01, 1.1), [measured(0.01, 1.1)], []),
        # Far below what it was.
        (measured(0.02, 20), [measured(0.3, 20)], ['embedding_std']),
        (measured(0.3, 1.5), [measured(0.3, 20)], ['effective_rank']),
        # Also where the peak came after the first.
        (measured(0.02, 20), [measured(0.04), measured(0.3)], ['embedding_std']),
        # Far below, but no collapse yet.
        (measured(0.1, 4), [measured(0.9, 90)], []),
        # Without comparison.
        (measured(1e-3, 1.01), [], ['embedding_std', 'effective_rank']),
        (measured(np.nan, np.nan), [measured()], []),
        ({}, [measured()], []),
    ],
)
def test_signs_of_spread_and_rank(now, before, kinds):
    assert list(collapse_signs(now, before)) == kinds


AT_CHANCE = dict(loss=6.25, chance_loss=6.238)


@pytest.mark.parametrize(
    ('now', 'before', 'expected'),
    [
        (measured(**AT_CHANCE), measured(**AT_CHANCE), True),
        (measured(loss=6.1, chance_loss=6.238), measured(**AT_CHANCE), False),
        # On its way down.
        (measured(**AT_CHANCE), measured(loss=6.5, chance_loss=6.238), False),
        # Too early to say.
        (measured(epoch=5.0, **AT_CHANCE), measured(**AT_CHANCE), False),
        # A method that knows no such loss.
        (measured(loss=6.25), measured(loss=6.25), False),
    ],
)
def test_a_loss_that_stays_at_chance_is_a_sign(now, before, expected):
    signs = collapse_signs(now, [before])
    assert list(signs) == ['chance_loss'] * expected
    if expected:
        assert '6.25' in signs['chance_loss']
        assert '6.238' in signs['chance_loss']


def test_a_loss_at_chance_is_a_sign_at_any_end():
    short = measured(epoch=1.0, **AT_CHANCE)
    assert list(collapse_signs(short, [], ended=True)) == ['chance_loss']
    assert not collapse_signs(short, [])


@pytest.mark.parametrize(
    ('share', 'epoch', 'expected'),
    [(0.95, 6, True), (0.85, 6, False), (0.95, 5, False)],
)
def test_dead_prototypes_are_a_sign(share, epoch, expected):
    signs = collapse_signs(measured(epoch=epoch, dead_prototypes=share), [])
    assert list(signs) == ['dead_prototypes'] * expected


def test_recall_takes_the_log_of_an_earlier_start():
    watch = make_watch()
    watch.recall([{'loss': 1.0}, measured(0.3, 20)])
    [sentence] = collapse_signs(measured(0.02, 20), watch._history).values()
    assert sentence.startswith('embedding_std fell from 0.3 to 0.02: ')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(images=1), r'watch\.images is 1; at least 2'),
        (dict(every_epochs=0), r'watch\.every_epochs is 0; at least 1'),
        (dict(probe_every_epochs=-1), r'watch\.probe_every_epochs is -1; at least 0'),
        (dict(neighbours=0), r'watch\.neighbours is 0'),
        (dict(probe_images=1), r'watch\.probe_images is 1'),
        (dict(every_epochs=3), r'no multiple of watch\.every_epochs, 3'),
        (dict(on_collapse='wran'), r"watch\.on_collapse: 'wran'. Did you mean 'warn'"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(PLAN, **changes)
