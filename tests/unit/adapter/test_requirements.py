"""Each requirement refuses an engine that is amiss in one field alone, by that field's name."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from spillway.adapters.vllm.requirements import CONFIG, KV_CACHE, problem_of


class FullAttentionSpec: ...


class MambaSpec: ...


def config(**changes: Any) -> SimpleNamespace:
    """An engine that is entered, as far as the requirements ask; a change is `part__field`, or `field` of the whole."""
    parts: dict[str, Any] = {
        "model_config": SimpleNamespace(is_encoder_decoder=False, is_diffusion=False),
        "is_mm_encoder_only": False,
        "cache_config": SimpleNamespace(enable_prefix_caching=True, prefix_caching_hash_algo="sha256"),
        "parallel_config": SimpleNamespace(
            nnodes=1,
            pipeline_parallel_size=1,
            decode_context_parallel_size=1,
            prefill_context_parallel_size=1,
            distributed_executor_backend="mp",
            world_size=8,
        ),
        "speculative_config": None,
        "attention_config": SimpleNamespace(hisparse_config=None),
        "aux_output_config": SimpleNamespace(enabled=False),
        "load_config": SimpleNamespace(load_format="auto"),
    }
    for name, value in changes.items():
        part, _, field = name.partition("__")
        if field:
            setattr(parts[part], field, value)
        else:
            parts[part] = value
    return SimpleNamespace(**parts)


def plan(
    spec: object | None = None, *, groups: int = 1, offloaded: int | None = None, **changes: Any
) -> SimpleNamespace:
    """A plan of the KV cache that is entered, but for the changes: `layout`, or fields of every group."""
    layout = changes.pop("layout", None)
    fields = {"kv_cache_spec": spec or FullAttentionSpec(), "is_eagle_group": False, "host_resident": False, **changes}
    return SimpleNamespace(
        kv_cache_groups=[SimpleNamespace(**fields) for _ in range(groups)],
        prefix_cacheable_group_ids=list(range(groups if offloaded is None else offloaded)),
        kv_cache_layout=layout,
    )


@pytest.fixture(autouse=True)
def layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM is not in this environment; of its layouts one keeps a block together and one does not."""
    module: Any = ModuleType("vllm.v1.kv_cache_layout")
    module.KVCacheLayout = {
        "LBNHC": SimpleNamespace(is_block_compact=True),
        "LHBNC": SimpleNamespace(is_block_compact=False),
    }
    for name in ("vllm", "vllm.v1"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.v1.kv_cache_layout", module)


AMISS: dict[str, tuple[SimpleNamespace, SimpleNamespace | None]] = {
    "an encoder-decoder takes no KV connector": (config(model_config__is_encoder_decoder=True), None),
    "a diffusion model's blocks are rewritten": (config(model_config__is_diffusion=True), None),
    "mm_encoder_only: there is no KV cache": (config(is_mm_encoder_only=True), None),
    "enable_prefix_caching is off": (config(cache_config__enable_prefix_caching=False), None),
    "nnodes is 2": (config(parallel_config__nnodes=2), None),
    "pipeline_parallel_size is 2": (config(parallel_config__pipeline_parallel_size=2), None),
    "decode_context_parallel_size is 2": (config(parallel_config__decode_context_parallel_size=2), None),
    "prefill_context_parallel_size is 2": (config(parallel_config__prefill_context_parallel_size=2), None),
    "distributed_executor_backend is ray": (config(parallel_config__distributed_executor_backend="ray"), None),
    "world_size is 128": (config(parallel_config__world_size=128), None),
    "speculative_config: the drafter's weights": (config(speculative_config=object()), None),
    "hisparse_config: is set": (config(attention_config__hisparse_config=object()), None),
    "aux_output_config: what it returns": (config(aux_output_config__enabled=True), None),
    "calculate_kv_scales: each engine": (config(cache_config__calculate_kv_scales=True), None),
    "prefix_caching_hash_algo is xxhash": (config(cache_config__prefix_caching_hash_algo="xxhash"), None),
    "load_format dummy": (config(load_config__load_format="dummy"), None),
    "17 KV groups": (config(), plan(groups=17)),
    "0 KV groups": (config(), plan(groups=0)),
    "KV group 0 is a MambaSpec": (config(), plan(MambaSpec())),
    "KV group 1 takes no part in prefix caching": (config(), plan(groups=2, offloaded=1)),
    "KV group 0 belongs to a drafter": (config(), plan(is_eagle_group=True)),
    "KV cache layout LHBNC spreads a block": (config(), plan(layout="LHBNC")),
}


@pytest.mark.parametrize("reason", AMISS)
def test_engine_that_is_amiss_in_one_field_is_refused_by_its_name(reason: str) -> None:
    assert reason in str(problem_of(*AMISS[reason]))


def test_every_requirement_has_a_case() -> None:
    refusing = set()
    for vllm_config, kv_cache_config in AMISS.values():
        for requirement in CONFIG:
            if requirement.problem(vllm_config) is not None:
                refusing.add(requirement.what)
        for requirement in KV_CACHE if kv_cache_config is not None else ():
            if requirement.problem(kv_cache_config) is not None:
                refusing.add(requirement.what)
    assert refusing == {requirement.what for requirement in (*CONFIG, *KV_CACHE)}


@pytest.mark.parametrize("layout", [None, "LBNHC"])
def test_engine_with_nothing_amiss_is_entered(layout: str | None) -> None:
    assert problem_of(config(), plan(layout=layout)) is None


def test_field_that_moved_is_a_question_that_cannot_be_answered() -> None:
    moved = config()
    del moved.parallel_config.nnodes
    assert "whether the engine is on one node cannot be told" in str(problem_of(moved))
