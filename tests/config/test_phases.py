"""Which steps are made before which updates, and where the online phase's evaluations are due, counted by hand."""

from __future__ import annotations

import pytest

from iql.config.phases import Phases


def test_a_run_without_finetuning_has_one_phase():
    for settings in ({"updates": 70}, {"updates": 70, "finetune": None}):
        phases = Phases.of(settings)
        assert (phases.offline, phases.total, phases.online(69), phases.steps_after(70)) == (70, 70, False, 0)


@pytest.mark.parametrize("offline", [0, 7])
@pytest.mark.parametrize("start_after", [0, 3, 10])
@pytest.mark.parametrize("each", [1, 4])
@pytest.mark.parametrize("every", [5, 6, 100])
def test_counters_are_those_of_the_loop_that_they_describe(offline, start_after, each, every):
    """The loop: the offline updates; then a step, and after the first ones `each` updates."""
    steps = 23
    phases = Phases(offline, steps, start_after, each, every)
    updates, due = offline, []
    for step in range(1, steps + 1):
        for _ in range(each if step > start_after else 0):
            assert phases.online(updates) and phases.steps_before(updates) == step
            updates += 1
            assert phases.steps_after(updates) == step
        if step > start_after and (step % every == 0 or step == steps):
            due.append(updates)
    assert phases.total == updates
    assert [number for number in range(updates + 1) if phases.evaluation_due(number)] == due
    for number in range(updates):
        assert phases.next_evaluation(number) == next(each for each in due if each > number)
    assert not phases.online(offline - 1) and phases.steps_after(offline) == 0
