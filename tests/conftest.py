"""What every test may use: executed types, the untouched model, the shared real data."""

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

# Every annotation of whence's functions is checked when they are called. As for mypy, an int is
# also a float. `Self` cannot be checked on a method alone and is left to mypy.
jaxtyping.install_import_hook(
    "whence",
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True, hint_overrides="
    "beartype.FrozenDict({__import__('typing').Self: object})))",
)

import torch  # noqa: E402 - the hook must come before anything that may import whence
from hypothesis import settings  # noqa: E402
from torch import nn  # noqa: E402

torch.set_num_threads(1)

# Machines differ in speed, and no test asserts a time; the same examples are drawn every time.
settings.register_profile("whence", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("whence")

REPOSITORY = Path(__file__).parent.parent
HOOKS = tuple(name for name in nn.Module().__dict__ if "_hooks" in name)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Return everything of a model that whence must leave as it found it."""
    state: dict[str, Any] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, torch.Tensor):
            raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            state[f"state dict {name}"] = (id(value), value.dtype, value.shape, bytes(raw.numpy()))
        else:
            state[f"state dict {name}"] = value
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        grad = None if value.grad is None else (id(value.grad), value.grad.sum().item())
        state[f"tensor {name}"] = (id(value), value.data_ptr(), value.requires_grad, grad)
        hooks = value._backward_hooks
        state[f"tensor hooks {name}"] = 0 if hooks is None else len(hooks)
    for name, module in model.named_modules():
        state[f"mode {name}"] = module.training
        state[f"class {name}"] = type(module)
        state[f"hooks {name}"] = {hook: len(getattr(module, hook)) for hook in HOOKS}
        state[f"attributes {name}"] = {
            key: id(value) for key, value in vars(module).items() if key != "training"
        }
        state[f"children {name}"] = [(key, id(child)) for key, child in module.named_children()]
    return state


def assert_same_snapshot(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Name what changed on the model, if anything did."""
    changed = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    assert not changed, f"the model came back changed: {sorted(changed)}"


@pytest.fixture
def untouched() -> Callable[[nn.Module], AbstractContextManager[None]]:
    """``with untouched(model): ...`` fails if the body leaves anything on the model.

    It compares the state dict's bytes, the identities of parameters and buffers,
    ``requires_grad``, ``.grad``, modes, attributes and hook counts, also when the body raises.
    """

    @contextmanager
    def guard(model: nn.Module) -> Iterator[None]:
        before = snapshot(model)
        try:
            yield
        finally:
            assert_same_snapshot(before, snapshot(model))

    return guard


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; the test is skipped where there is none."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data in {folder.parent.name}/{folder.name}, which are absent")
    return folder


@pytest.fixture
def generator() -> torch.Generator:
    """A generator with a fixed seed."""
    return torch.Generator().manual_seed(0)


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not walk it again and again."""
    gc.collect()
    gc.freeze()
