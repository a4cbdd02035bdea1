import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_mrissl.core.errors import UserError
from jax_mrissl.models import ENCODERS
from jax_mrissl.models.torchvision import from_torchvision, to_torchvision

BLOCKS = {'resnet18': (2, 2, 2, 2), 'resnet34': (3, 4, 6, 3), 'resnet50': (3, 4, 6, 3)}
COUNTS = {'resnet18': 11_176_512, 'resnet34': 21_284_672, 'resnet50': 23_508_032}


def layout(name):
    """Names and shapes as torchvision's `ResNet.state_dict()` has them, less fc."""
    shapes = {}

    def conv(where, out, into, size):
        shapes[f'{where}.weight'] = (out, into, size, size)

    def norm(where, width):
        for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
            shapes[f'{where}.{leaf}'] = (width,)
        shapes[f'{where}.num_batches_tracked'] = ()

    conv('conv1', 64, 3, 7)
    norm('bn1', 64)
    into = 64
    wider = 4 if name == 'resnet50' else 1
    for stage, blocks in enumerate(BLOCKS[name], start=1):
        width = 32 * 2**stage
        for index in range(blocks):
            at = f'layer{stage}.{index}'
            sizes = (1, 3, 1) if wider == 4 else (3, 3)
            outs = (width, width, 4 * width) if wider == 4 else (width, width)
            before = into
            for number, (size, out) in enumerate(zip(sizes, outs, strict=True), 1):
                conv(f'{at}.conv{number}', out, before, size)
                norm(f'{at}.bn{number}', out)
                before = out
            if index == 0 and (stage > 1 or wider == 4):
                conv(f'{at}.downsample.0', outs[-1], into, 1)
                norm(f'{at}.downsample.1', outs[-1])
            into = outs[-1]
    return shapes


def abstract(name, **fields):
    module = ENCODERS[name](**fields).module()
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return jax.eval_shape(
        lambda x: module.init(jax.random.key(0), x, train=False), image
    )


def random_variables(name, seed=0, **fields):
    """Every array with numbers of its own; the variances above 0."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if leaf.ndim < 4:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        # As initialised, so that nothing grows and hides a difference.
        deviation = np.sqrt(2 * leaf.shape[-1] / leaf.size)
        return (deviation * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree.map(draw, abstract(name, **fields))


def as_like(variables):
    return {
        'params': variables['params'],
        'model_state': {'batch_stats': variables['batch_stats']},
    }


@pytest.fixture(scope='module')
def tiny():
    variables = random_variables('resnet_tiny')
    return variables, to_torchvision(variables)


@pytest.mark.parametrize('name', list(BLOCKS))
def test_names_and_shapes_are_torchvisions(name):
    tensors = to_torchvision(random_variables(name))
    assert {k: v.shape for k, v in tensors.items()} == layout(name)
    statistics = ('running_mean', 'running_var', 'num_batches_tracked')
    assert COUNTS[name] == sum(
        v.size for k, v in tensors.items() if not k.endswith(statistics)
    )
    for key, value in tensors.items():
        tracked = key.endswith('num_batches_tracked')
        assert value.dtype == (np.int64 if tracked else np.float32)
        assert value.flags.c_contiguous
        assert not tracked or value == 0


def test_each_value_lands_where_torch_has_it(tiny):
    variables, tensors = tiny
    kernel = variables['params']['layer2_0']['downsample_conv']['kernel']
    found = tensors['layer2.0.downsample.0.weight']
    for out, into in ((0, 0), (3, 1), (15, 7)):
        assert found[out, into, 0, 0] == kernel[0, 0, into, out]
    kernel = variables['params']['conv1']['kernel']
    assert tensors['conv1.weight'][5, 2, 6, 1] == kernel[6, 1, 2, 5]
    stats = variables['batch_stats']['layer1_0']['bn2']
    np.testing.assert_array_equal(tensors['layer1.0.bn2.running_mean'], stats['mean'])
    np.testing.assert_array_equal(tensors['layer1.0.bn2.running_var'], stats['var'])
    scale = variables['params']['layer1_0']['bn2']['scale']
    np.testing.assert_array_equal(tensors['layer1.0.bn2.weight'], scale)


def plain(tensors):
    return tensors


def prefixed(*prefixes):
    def rename(tensors):
        return {''.join(prefixes) + name: value for name, value in tensors.items()}

    return rename


def by_number(tensors):
    """As Lightly's `nn.Sequential(*list(resnet.children())[:-1])`."""
    numbers = {'conv1': '0', 'bn1': '1', 'layer1': '4', 'layer2': '5'}
    renamed = {}
    for name, value in tensors.items():
        first, _, rest = name.partition('.')
        renamed[f'{numbers[first]}.{rest}'] = value
    return renamed


def with_classifier(tensors):
    return tensors | {'fc.weight': np.zeros((10, 16)), 'fc.bias': np.zeros(10)}


def without_counts(tensors):
    return {k: v for k, v in tensors.items() if 'num_batches_tracked' not in k}


@pytest.mark.parametrize(
    'ways',
    [
        (plain,),
        (with_classifier,),
        (without_counts,),
        (prefixed('module.'),),
        (prefixed('encoder.'), with_classifier),
        (with_classifier, prefixed('module.', 'encoder.')),
        (prefixed('resnet.'),),
        (by_number,),
        (by_number, prefixed('backbone.')),
    ],
)
def test_comes_back_under_any_of_the_usual_names(tiny, ways):
    variables, tensors = tiny
    for way in ways:
        tensors = way(tensors)
    found = from_torchvision(tensors, as_like(variables))
    jax.tree.map(np.testing.assert_array_equal, found, as_like(variables))


@pytest.mark.parametrize('stem', ['imagenet', 'small'])
def test_a_resnet50_comes_back(stem):
    variables = random_variables('resnet50', stem=stem)
    like = as_like(abstract('resnet50', stem=stem))
    found = from_torchvision(to_torchvision(variables), like)
    jax.tree.map(np.testing.assert_array_equal, found, as_like(variables))


def test_takes_the_types_and_devices_of_what_is_expected(tiny):
    variables, tensors = tiny
    device = jax.local_devices()[-1]
    sharding = jax.sharding.SingleDeviceSharding(device)
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=sharding),
        as_like(variables),
    )
    halves = {
        k: v.astype(jnp.bfloat16) if v.dtype == np.float32 else v
        for k, v in tensors.items()
    }
    for leaf in jax.tree.leaves(from_torchvision(halves, like)):
        assert leaf.dtype == jnp.float32 and leaf.devices() == {device}


def test_all_that_is_wrong_is_named(tiny):
    variables, tensors = tiny
    wrong = dict(tensors)
    del wrong['layer1.0.conv2.weight']
    wrong['layer3.0.conv1.weight'] = np.zeros((1, 1, 3, 3), np.float32)
    wrong['bn1.weight'] = np.zeros(9, np.float32)
    wrong['bn1.bias'] = np.zeros(8, np.int64)
    with pytest.raises(UserError) as found:
        from_torchvision(wrong, as_like(variables))
    for words in (
        'Missing: layer1.0.conv2.weight.',
        'Not expected: layer3.0.conv1.weight.',
        'Of another shape: bn1.weight is [9], expected [8].',
        'Of another type: bn1.bias is int64',
    ):
        assert words in str(found.value)


def test_of_many_the_first_are_named_and_the_rest_counted(tiny):
    _, tensors = tiny
    with pytest.raises(UserError, match=r'Missing: layer1\.1\.bn1.* and 62 more\. Of'):
        from_torchvision(without_counts(tensors), as_like(abstract('resnet18')))
    with pytest.raises(UserError, match='and 92 more'):
        # 100 tensors of a ResNet18 are in none of these; 8 are named.
        from_torchvision({}, as_like(abstract('resnet18')))


def test_another_networks_names_are_shown_as_they_are(tiny):
    variables, _ = tiny
    foreign = {
        'vit.cls_token': np.zeros(3, np.float32),
        'vit.norm.bias': np.zeros(3, np.float32),
    }
    with pytest.raises(UserError, match=r'Not expected: vit\.cls_token; vit\.norm'):
        from_torchvision(foreign, as_like(variables))


def test_what_is_no_resnet_is_a_bug():
    with pytest.raises(ValueError, match='no params/dense/bias_of_mine'):
        to_torchvision({'params': {'dense': {'bias_of_mine': np.zeros(1)}}})


# Against torchvision itself, where it is installed (not in the tests' environment).


def perturbed(torch, torchvision, name):
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    network.fc = torch.nn.Identity()
    return network


@pytest.mark.parametrize('train', [False, True], ids=['eval', 'train'])
@pytest.mark.parametrize('name', list(BLOCKS))
@pytest.mark.parametrize('way', ['from torchvision', 'to torchvision'])
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_torchvisions_network_gives_the_same(name, train, way, dtype):
    torch = pytest.importorskip('torch')
    torchvision = pytest.importorskip('torchvision')
    network = perturbed(torch, torchvision, name)
    with jax.enable_x64(dtype == 'float64'):
        module = ENCODERS[name]().module(dtype, dtype)
        if way == 'from torchvision':
            theirs = {k: v.numpy() for k, v in network.state_dict().items()}
            read = from_torchvision(theirs, as_like(abstract(name)))
            variables = {'params': read['params'], **read['model_state']}
        else:
            variables = random_variables(name, seed=1)
            ours = {k: torch.tensor(v) for k, v in to_torchvision(variables).items()}
            network.load_state_dict(ours)  # strict: nothing missing, nothing extra
        rng = np.random.default_rng(0)
        images = rng.normal(size=(4, 3, 96, 96)).astype(dtype)
        network.to(getattr(torch, dtype)).train(train)
        before = {k: v.clone().numpy() for k, v in network.state_dict().items()}
        with torch.no_grad():
            expected = network(torch.tensor(images)).numpy()

        @jax.jit
        def run(variables, images):
            return module.apply(
                variables,
                images,
                train=train,
                mutable=['batch_stats'] if train else False,
            )

        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), variables)
        found = run(variables, jnp.asarray(images.transpose(0, 2, 3, 1)))
        found, state = found if train else (found, {})
        found = np.asarray(found)
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    # Largest seen: 5e-5 for float32 (a ResNet50 by batch statistics), 1e-14
    # for float64 (a ResNet18; the others were not run so).
    assert found.dtype == dtype
    assert difference <= {'float32': 1e-4, 'float64': 1e-9}[dtype]
    if train:
        after = {k: v.numpy() for k, v in network.state_dict().items()}
        mine = to_torchvision({'params': variables['params'], **state})
        for where, count in (('bn1', 4 * 48 * 48), ('layer4.1.bn1', 4 * 3 * 3)):
            name = f'{where}.running_mean'
            scale = np.abs(after[name]).max()
            np.testing.assert_allclose(mine[name], after[name], atol=1e-5 * scale)
            # Both keep 0.9 of the old; what is new is biased in ours alone.
            name = f'{where}.running_var'
            old = 0.9 * before[name]
            biased = old + (after[name] - old) * (count - 1) / count
            np.testing.assert_allclose(mine[name], biased, rtol=1e-4)
