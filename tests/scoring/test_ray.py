"""The Ray executor on a local cluster of several nodes, one of which is lost on the way."""

import pytest

from grpo_core import Outcome, Scorer, score

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

WORDS = [f"completion {i}" for i in range(300)]


@pytest.fixture
def cluster(monkeypatch):
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_same_verdicts_and_outcomes_as_here(cluster, unruly, samples):
    rubric = unruly(
        "Length", "lengths", "AsyncLength", "Odd", "Place", Place={"options": {"size": 303}}
    )
    chosen = samples(*WORDS, "spin", "exit", "nan")
    with Scorer(rubric, workers=2, executor="ray") as scorer:
        there = scorer.score(chosen)
    here = score(chosen, rubric, workers=2)
    for name in rubric.names:
        for mine, theirs in zip(here.scores[name], there.scores[name], strict=True):
            assert (mine.value, mine.outcome) == (theirs.value, theirs.outcome)
    assert there.scores["Length"][300].outcome is Outcome.timeout
    assert there.scores["Length"][301].outcome is Outcome.error


def test_a_lost_node_loses_no_verdict(cluster, unruly, samples):
    doomed = cluster.add_node(num_cpus=2)
    rubric = unruly("Length", Length={"deadline_s": 30})
    with Scorer(rubric, workers=4, executor="ray") as scorer:
        batch = scorer.batch()
        batch.add(samples(*(f"sleep 0.03{i:03}" for i in range(300))))
        while batch.pending > 250:
            pass
        cluster.remove_node(doomed, allow_graceful=False)
        scores = batch.result(timeout=120).scores["Length"]
    assert {one.value for one in scores} == {float(len("sleep 0.03000"))}
