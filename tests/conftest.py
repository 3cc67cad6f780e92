"""Before any test imports Keras: one backend per process, one thread, no accelerator's memory taken in advance."""

import importlib.util
import os
import tempfile

import pytest
from hypothesis import HealthCheck, settings

BACKENDS = ("jax", "tensorflow", "torch")

os.environ.setdefault("KERAS_BACKEND", next((name for name in BACKENDS if importlib.util.find_spec(name)), "jax"))
# Tests run side by side, and two frameworks that each take all cores are ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

if importlib.util.find_spec("torch") and os.environ["KERAS_BACKEND"] != "jax":
    import torch  # a process that imports TensorFlow first may crash when torch is imported later

    torch.set_num_threads(1)

# Much of what JAX compiles for one test it needs for another: processes of one run share it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="zoo-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

# The same examples in every run, however slow the machine.
settings.register_profile("zoo", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zoo")

AS_USERS_HAVE_IT = ("test_parity", "test_speed")


@pytest.fixture(scope="module", autouse=True)
def _compile_quickly(request):
    """On JAX most of a test is compilation: a quarter of it is saved, but for tests of what optimised programs do."""
    if os.environ["KERAS_BACKEND"] == "jax":
        import jax

        quickly = request.module.__name__.rpartition(".")[2] not in AS_USERS_HAVE_IT
        jax.config.update("jax_disable_most_optimizations", quickly)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Tables are cached in the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
